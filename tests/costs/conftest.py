"""What a call costs is measured without metrics, which another test or page of the same process may have turned on."""

from __future__ import annotations

import pytest

from ratelimit_core.store import fallback


@pytest.fixture(autouse=True)
def without_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "observer", None)
