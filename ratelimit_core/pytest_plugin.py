"""Fixtures for pytest. A test requests them by name.

``usefixtures = resilience_reset`` in pytest's configuration isolates all tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import FrozenTime


@pytest.fixture
def resilience_reset() -> Iterator[None]:
    """Run the test without the earlier state of this process, and with a new memory backend as the store.

    See :func:`ratelimit_core.testing.isolated`.
    """
    from .testing import isolated  # only tests that use the fixture pay for the import

    with isolated():
        yield


@pytest.fixture
def resilience_clock(resilience_reset: None) -> Iterator[FrozenTime]:
    """Stop the time, and yield a clock that moves the time with ``advance(seconds)``.

    See :func:`ratelimit_core.testing.frozen_time`.
    """
    from .testing import frozen_time

    with frozen_time() as frozen:
        yield frozen
