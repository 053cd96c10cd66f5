"""Who may look at the fleet, and who may act on it: those of the breakers of the admin."""

from __future__ import annotations

SEE = "ratelimit_core.view_breaker"
ACT = "ratelimit_core.change_breaker"
