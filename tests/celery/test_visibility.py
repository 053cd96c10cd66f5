"""Waits that are longer than the broker holds a message for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.celery.conftest import Fleet


def test_waits_longer_than_the_visibility_timeout_run_everything_once(
    fleet: Fleet, gather: Callable[..., list[Any]]
) -> None:
    """With ``visibility_timeout=5`` an opening of 30 s is waited in parts, each as long as the broker holds it."""
    for _ in range(2):
        fleet.worker("-c", "2", FLEET_VISIBILITY="5")
    fleet.trip("wait_long")
    orders = [fleet.module.wait_long.delay(n) for n in range(30)]
    assert sorted(gather(orders, timeout=60)) == list(range(30))
    assert fleet.world.hvals("runs") == ["1"] * 30
