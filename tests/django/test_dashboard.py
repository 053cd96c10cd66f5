"""How often the dashboard asks the store."""

from __future__ import annotations

import itertools

import pytest

from ratelimit_core.clock import ManualClock
from ratelimit_core.django import dashboard
from ratelimit_core.overview import Fleet


def test_after_a_look_that_took_long_the_store_has_ten_times_as_long_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = ManualClock(), itertools.count()

    def look() -> Fleet:
        clock.advance(0.5)
        return Fleet({}, [], {}, {}, str(next(asked)))

    monkeypatch.setattr(dashboard, "monotonic", clock)
    monkeypatch.setattr(dashboard, "look", look)
    dashboard.forget()
    assert dashboard._seen().away == "0"
    clock.advance(4.9)
    assert dashboard._seen().away == "0"
    clock.advance(0.2)
    assert dashboard._seen().away == "1"
    dashboard.forget()
