"""How long to look: briefly and always at the same examples, or with ``--hypothesis-profile=thorough``."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("thorough", max_examples=1000)


def examples(count: int) -> settings:
    thorough = settings.get_current_profile_name() == "thorough"
    return settings(
        max_examples=count * 20 if thorough else count,
        derandomize=not thorough,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
