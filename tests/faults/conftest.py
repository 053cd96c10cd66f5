"""What faults are injected with, and where it is noted what they did."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .table import Row, rows

Saw = Callable[[Row], None]


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Saw:
    """Note a row of the table in docs/reliability.md."""
    seen = request.config.stash.setdefault(rows, [])
    return lambda row: seen.append((request.node.nodeid.split("[")[0], row))
