"""Fixtures for pytest. None acts unless it is asked for; ``usefixtures = resilience_reset`` in the ini asks for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import FrozenTime


@pytest.fixture
def resilience_reset() -> Iterator[None]:
    """Each test begins with nothing known, in a memory of its own: see :func:`ratelimit_core.testing.isolated`."""
    from .testing import isolated  # nobody pays for it who does not use it

    with isolated():
        yield


@pytest.fixture
def resilience_clock(resilience_reset: None) -> Iterator[FrozenTime]:
    """A clock that stands still until ``advance(seconds)``: see :func:`ratelimit_core.testing.frozen_time`."""
    from .testing import frozen_time

    with frozen_time() as frozen:
        yield frozen
