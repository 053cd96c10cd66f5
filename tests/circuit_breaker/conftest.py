"""Fleets for the tests of the breaker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratelimit_core import events
from ratelimit_core.backends import Backend
from ratelimit_core.testing import ManualClock
from tests.circuit_breaker.fleet import Fleet


@pytest.fixture
def fleet(store: Backend, clock: ManualClock) -> Fleet:
    """Processes that share each store in turn."""
    return Fleet(store, clock)


@pytest.fixture
def happened() -> Iterator[list[events.Event]]:
    """The events of the test."""
    seen: list[events.Event] = []
    unsubscribe = events.subscribe(seen.append)
    yield seen
    unsubscribe()
