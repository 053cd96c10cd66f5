"""Who may be asked by anybody is not asked each time."""

from __future__ import annotations

import pytest

from ratelimit_core._util import throttle
from ratelimit_core._util.clock import SECOND
from ratelimit_core._util.throttle import Resting
from ratelimit_core.testing import ManualClock


@pytest.mark.parametrize(("took", "at_least", "good_for"), [(0.02, 0, 0.2), (0.02, SECOND, 1.0), (3.0, SECOND, 30.0)])
def test_a_look_is_good_for_ten_times_as_long_as_it_took(
    took: float, at_least: int, good_for: float, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "monotonic", clock)
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        clock.advance(took)
        return looks

    resting_look = Resting(look, at_least=at_least)
    assert [resting_look() for _ in range(3)] == [1, 1, 1]
    clock.advance(good_for - 0.001)
    assert resting_look() == 1
    clock.advance(0.001)
    assert [resting_look() for _ in range(2)] == [2, 2]
    resting_look.forget()
    assert resting_look() == 3
