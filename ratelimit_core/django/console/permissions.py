"""The permissions to see the fleet and to act on it. Django's admin uses them for breakers, too."""

from __future__ import annotations

SEE = "ratelimit_core.view_breaker"
ACT = "ratelimit_core.change_breaker"
