"""Fixtures for pytest. Tests ask for them by name; ``usefixtures = resilience_reset`` in the ini isolates all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import FrozenTime


@pytest.fixture
def resilience_reset() -> Iterator[None]:
    """Isolate the test: no earlier state, a new memory as the store. See :func:`ratelimit_core.testing.isolated`."""
    from .testing import isolated  # only tests that use the fixture pay for the import

    with isolated():
        yield


@pytest.fixture
def resilience_clock(resilience_reset: None) -> Iterator[FrozenTime]:
    """Give a clock that stands still until ``advance(seconds)``: see :func:`ratelimit_core.testing.frozen_time`."""
    from .testing import frozen_time

    with frozen_time() as frozen:
        yield frozen
