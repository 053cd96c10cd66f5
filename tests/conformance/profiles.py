"""How long to look: always at the same examples, at a tenth of them or, which are others, at twenty times as many.

The last two are ``--hypothesis-profile=quick`` and ``=thorough``.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None)  # a machine may be busy
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.register_profile("quick", max_examples=10, deadline=None)
settings.load_profile("default")


def is_quick() -> bool:
    return settings.get_current_profile_name() == "quick"


def examples(count: int) -> settings:
    thorough = settings.get_current_profile_name() == "thorough"
    times = 20 if thorough else 0.1 if is_quick() else 1
    return settings(
        max_examples=max(1, round(count * times)),
        derandomize=not thorough,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
