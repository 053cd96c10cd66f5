"""What a waiting task carries, and how long it may wait at a time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from resilient_tasks.execution.wait_header import HEADER, SLOT, Waiting
from resilient_tasks.queues import longest_countdown

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def test_the_header_comes_back_as_it_was() -> None:
    waiting = Waiting(3, 5.5, (1, "id:0:slot", 2), time.time() + 60)
    assert Waiting.of({HEADER: waiting.header(), "other": 1}) == waiting


@given(JSON | st.fixed_dictionaries({"deferrals": JSON, "waited": JSON, "slot": JSON, "until": JSON}))
def test_a_forged_header_never_raises_and_never_reaches_beyond_its_bounds(forged: Any) -> None:
    waiting = Waiting.of({HEADER: forged})
    assert 0 <= waiting.deferrals < 1_000_000_000
    assert 0 <= waiting.waited <= 1e9
    assert 0 <= waiting.until <= time.time() + 31 * 86400
    if waiting.slot is not None:
        which, lease_id, cost = waiting.slot
        assert 0 <= which < 100
        assert len(lease_id) <= 200
        assert cost > 0


@pytest.mark.parametrize(("length", "is_kept"), [(200, True), (201, False)])
def test_a_slot_is_kept_whose_lease_id_has_at_most_200_characters(length: int, is_kept: bool) -> None:
    slot = (0, SLOT.rjust(length, "x"), 1)
    assert Waiting.of({HEADER: Waiting(slot=slot).header()}).slot == (slot if is_kept else None)


@pytest.mark.parametrize("headers", [None, {}, {HEADER: None}, {HEADER: "x"}])
def test_a_message_without_the_header_has_not_waited(headers: Any) -> None:
    assert Waiting.of(headers) == Waiting()


@pytest.mark.parametrize(
    ("broker", "options", "seconds"),
    [
        ("redis://localhost", {}, 1800),
        ("redis://localhost", {"visibility_timeout": 5}, 2.5),
        ("sentinel://localhost", {"visibility_timeout": 100}, 50),
        ("sqs://", {}, 900),
        ("amqp://localhost", {}, 900),
        ("pyamqp://localhost", {"visibility_timeout": 5}, 900),
    ],
)
def test_a_wait_is_never_longer_than_the_broker_can_hold(broker: str, options: dict[str, Any], seconds: float) -> None:
    app = Celery("holds", broker=broker, set_as_current=False)
    app.conf.broker_transport_options = options
    assert longest_countdown(app) == seconds
