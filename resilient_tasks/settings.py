"""The settings of the Celery app: ``app.conf.resilience_*`` is a source of :mod:`ratelimit_core.config.sources`."""

from __future__ import annotations

import os
import weakref
from typing import Any

from celery import Celery
from celery import _state as celery_state

from ratelimit_core._util.suggest import unknown_option
from ratelimit_core.config.schema import OF_VIEWS, SETTINGS
from ratelimit_core.config.sources import add_source
from ratelimit_core.errors import ConfigurationError

_OFF = {"0", "false", "no", "off"}

ENABLED = os.environ.get("RESILIENCE_ENABLED", "1").strip().lower() not in _OFF
"""False if the environment has ``RESILIENCE_ENABLED=0``. If False, tasks run without breakers and limits."""


APP_SETTINGS = frozenset(f"resilience_{name}" for name in SETTINGS.keys() - OF_VIEWS)
"""The settings that ``app.conf`` may have, besides the routing table ``resilience``."""

_latest: weakref.ref[Celery] | None = None


def current_app() -> Celery | None:
    """Return the current app, the default app, or the app that was current last. Never create an app."""
    # If there is no app, `celery.current_app` creates one and looks for its configuration.
    global _latest
    state: Any = celery_state
    app: Celery | None = state._tls.current_app or state.default_app
    if app is not None:
        if _latest is None or _latest() is not app:
            _latest = weakref.ref(app)
        return app
    if _latest is not None and (app := _latest()) is not None:  # Celery's current app is per thread
        return app
    apps = list(state._get_active_apps())
    return apps[0] if len(apps) == 1 else None


def check_settings(app: Celery) -> None:
    """Check that each ``resilience_`` setting of the app exists, and that it is not a setting of Django's views.

    Raises:
        ConfigurationError: the setting is unknown (the error names the nearest one), or belongs in Django's settings.
    """
    for name in app.conf:
        if not name.startswith("resilience_") or name in APP_SETTINGS:
            continue
        view_setting = name.removeprefix("resilience_")
        if view_setting in OF_VIEWS:
            raise ConfigurationError(
                f"{name} has no effect on tasks: write RATELIMIT_{view_setting.upper()} in Django's settings, for views"
            )
        raise unknown_option("the configuration of the Celery app", name, APP_SETTINGS)


def _from_app(name: str) -> Any:
    app = current_app()
    return None if app is None else app.conf.get(f"resilience_{name}")


add_source(_from_app)
