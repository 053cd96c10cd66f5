"""The permissions to see the fleet and to act on it. They are the admin's permissions on breakers."""

from __future__ import annotations

SEE = "ratelimit_core.view_breaker"
ACT = "ratelimit_core.change_breaker"
