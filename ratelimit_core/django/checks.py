"""The system checks of ``manage.py check``. No check connects to a store.

=====================  ========================================================================================
``ratelimit.E001``     a setting does not exist; the hint names the nearest one
``ratelimit.E002``     a value is wrong, or a handler can't be imported or called
``ratelimit.E003``     ``RATELIMIT_CIRCUIT_BREAKER``: an option is unknown or has a wrong value
``ratelimit.E004``     an entry of ``RATELIMIT_BACKENDS`` is wrong
``ratelimit.E005``     an entry of ``RATELIMIT_TRUSTED_PROXIES`` is neither an address nor a network
``ratelimit.E006``     ``RATELIMIT_MIDDLEWARE``: an option is unknown or has a wrong value
``ratelimit.E007``     the backend can't be created, or its alias is not in ``DATABASES``
``ratelimit.E008``     ``DEFAULT_THROTTLE_RATES`` is wrong for the throttles of ``ratelimit_core.django.drf``
``ratelimit.W001``     the backend is memory, so each process counts alone, and ``DEBUG`` is False
``ratelimit.W002``     the database backend shares the connection of the requests
``ratelimit.W003``     ``RATELIMIT_MIDDLEWARE`` is set, but the middleware is not installed
``ratelimit.W004``     the middleware limits by user, but runs before authentication
``ratelimit.W005``     as W002, on SQLite: a transaction that begins with a read may be unable to write
=====================  ========================================================================================
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import django
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import ERROR, CheckMessage, Error, Warning, register
from django.db import connections

from .._util.suggest import nearest
from ..config.breaker import CircuitBreakerConfig
from ..config.schema import SETTINGS
from ..config.sources import setting
from ..errors import ConfigurationError, ResilienceError
from ..store import configured, factory
from .limits.addresses import Proxies
from .middleware import SiteLimits
from .settings_cache import handler

TAG = "ratelimit"
_PREFIX = "RATELIMIT_"
_MIDDLEWARE = "ratelimit_core.django.middleware.ResilienceMiddleware"
_AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"

_REFUSALS = (ResilienceError, ImportError, TypeError, ValueError)  # a project's own class may raise any of these

Apps = Iterable[AppConfig] | None


@register(TAG)
def check_names(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the names of settings: E001."""
    given = [
        *((name, "") for name in dir(settings)),
        *((name, ", but the environment has a variable of this name") for name in os.environ),
    ]
    return [
        Error(
            f"{name} is not a setting{where}.",
            hint=f"{_nearest(name)} If {name} belongs to another library, silence ratelimit.E001.",
            id="ratelimit.E001",
        )
        for name, where in given
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX).lower() not in SETTINGS
    ]


@register(TAG)
def check_values(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the values of settings: E002."""
    errors = []
    for name in SETTINGS:
        _, error = _read(name, handler if name.endswith("_handler") else setting)
        if error:
            errors.append(Error(error, id="ratelimit.E002"))
    return [*errors]


@register(TAG)
def check_circuit_breaker(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the settings of breakers: E003."""
    name = "RATELIMIT_CIRCUIT_BREAKER"
    options = {str(option): value for option, value in (_read("circuit_breaker")[0] or {}).items()}
    errors: list[CheckMessage] = []
    while error := _refusal(name, options):
        errors.append(Error(error.replace(f"breaker {name!r}", name), id="ratelimit.E003"))
        if not (named := [option for option in options if option in error]):
            break
        for option in named:  # so that the next round finds other errors
            del options[option]
    return errors


@register(TAG)
def check_trusted_proxies(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the trusted proxies: E005."""
    errors = []
    for entry in _read("trusted_proxies")[0] or ():
        try:
            Proxies([entry])
        except ConfigurationError as error:
            errors.append(Error(str(error), id="ratelimit.E005"))
    return [*errors]


@register(TAG)
def check_middleware(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the middleware and its options: E006, W003, W004."""
    options = _read("middleware")[0]
    if not options:
        return []
    try:
        SiteLimits(options)
    except _REFUSALS as error:
        message = str(error).removeprefix("RATELIMIT_MIDDLEWARE: ")
        return [Error(f"RATELIMIT_MIDDLEWARE: {message}", id="ratelimit.E006")]
    installed = list(settings.MIDDLEWARE)
    if _MIDDLEWARE not in installed:
        return [
            Warning(
                "RATELIMIT_MIDDLEWARE limits nothing, because the middleware is not installed.",
                hint=f"Add {_MIDDLEWARE!r} to MIDDLEWARE.",
                id="ratelimit.W003",
            )
        ]
    by_user = str(options.get("key", "")).startswith("user")
    if by_user and _AUTHENTICATION not in installed[: installed.index(_MIDDLEWARE)]:
        return [
            Warning(
                "The middleware limits by user, but runs before authentication, so all requests count by address.",
                hint=f"Put {_MIDDLEWARE!r} after {_AUTHENTICATION!r} in MIDDLEWARE.",
                id="ratelimit.W004",
            )
        ]
    return []


@register(TAG)
def check_throttles(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the rates of throttles: E008. If the settings import no throttle of :mod:`.drf`, no rate is checked."""
    if "rest_framework" not in settings.INSTALLED_APPS:
        return []
    from rest_framework.settings import api_settings

    try:
        api_settings.DEFAULT_THROTTLE_CLASSES  # noqa: B018 - imports the classes
        throttles = sys.modules.get("ratelimit_core.django.drf")
        wrong = [] if throttles is None else throttles.wrong_rates()
    except _REFUSALS as error:
        wrong = [str(error)]
    return [Error(f"REST_FRAMEWORK: {message}", id="ratelimit.E008") for message in wrong]


@register(TAG)
def check_backend(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """Check the backends by creating them, which opens no connection: E004, E007, W001, W002, W005."""
    errors: list[CheckMessage] = []
    names = set()
    for entry in _read("backends")[0] or ():
        try:
            factory.from_entry(entry)
            name = factory._entry(entry)[0]
            if name in names:
                raise ConfigurationError(f"two backends are named {name!r}; give each entry its own 'name'")
            names.add(name)
        except _REFUSALS as error:
            message = _without_passwords(str(error)).removeprefix("backends: ")
            errors.append(Error(f"RATELIMIT_BACKENDS: {message}", id="ratelimit.E004"))
    if errors or any(_read(name)[1] for name in SETTINGS):
        return errors
    try:
        backend = configured._configured()
    except _REFUSALS as error:
        return [Error(f"RATELIMIT_BACKEND: {_without_passwords(str(error))}", id="ratelimit.E007")]
    members = getattr(backend, "backends", (backend,))
    if not backend.shared and not settings.DEBUG:
        errors.append(
            Warning(
                "The backend is memory. Each process counts alone, so a limit of 10/s allows 10/s in each process.",
                hint="Set RATELIMIT_BACKEND = 'redis://...' or 'django-db://ALIAS'. "
                "If there is only one process, silence ratelimit.W001.",
                id="ratelimit.W001",
            )
        )
    if any(getattr(each, "alias", "") == "default" for each in members):
        errors.append(
            Warning(
                "The database backend shares the connection of the requests, so a rollback also undoes the counting.",
                hint="Give the backend its own alias: DATABASES['resilience'] = {...} and "
                "RATELIMIT_DATABASE = 'resilience'. On SQLite, give the alias its own file too.",
                id="ratelimit.W002",
            )
        )
        if _reads_first():
            errors.append(
                Warning(
                    "The database backend shares an SQLite connection with the requests. After another connection has "
                    "written, a transaction that began with a read can't write ('database is locked'), and this "
                    "process decides alone.",
                    hint="Give the backend an alias with its own file, or set DATABASES['default']['OPTIONS'] = "
                    "{'transaction_mode': 'IMMEDIATE'}, so that transactions begin with the write lock.",
                    id="ratelimit.W005",
                )
            )
    return errors


def findings() -> list[tuple[bool, str, str]]:
    """Set up Django, run the checks, and return what they found, without silenced messages.

    Each item says whether it is an error, and has the text and the hint.
    """
    django.setup()
    checks = (value for name, value in globals().items() if name.startswith("check_"))
    found = [message for check in checks for message in check(None)]
    silenced = settings.SILENCED_SYSTEM_CHECKS
    return [(each.level >= ERROR, each.msg, each.hint or "") for each in found if each.id not in silenced]


def _reads_first() -> bool:
    connection = connections["default"]
    mode = connection.settings_dict["OPTIONS"].get("transaction_mode") or ""
    return connection.vendor == "sqlite" and mode.upper() not in ("IMMEDIATE", "EXCLUSIVE")


def _read(name: str, read: Callable[[str], Any] = setting) -> tuple[Any, str]:
    """Return the value of a setting, and an error text, which is ``""`` if the value is right."""
    try:
        return read(name), ""
    except ConfigurationError as error:
        message = _without_passwords(str(error))
        return None, message.replace(f"{name}=", f"{_PREFIX}{name.upper()} = ", 1)


def _refusal(name: str, options: Mapping[str, Any]) -> str:
    """Return the error text for the options of a breaker, or ``""``."""
    try:
        CircuitBreakerConfig(name).with_options(options)
    except ConfigurationError as error:
        return str(error)
    return ""


def _nearest(name: str) -> str:
    known = [known.upper() for known in SETTINGS]
    near = nearest(name.removeprefix(_PREFIX), known)
    return f"Did you mean {_PREFIX}{near}?" if near else f"Known settings are (without {_PREFIX}): {', '.join(known)}."


def _without_passwords(text: str) -> str:
    return re.sub(r"//[^@\s'\"]*@", "//***@", text)
