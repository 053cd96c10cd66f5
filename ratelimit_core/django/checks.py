"""What ``manage.py check`` says of the settings. Nothing here asks a store.

=====================  ========================================================================================
``ratelimit.E001``     a setting that does not exist, and the nearest that does
``ratelimit.E002``     a wrong value, also of a handler that can't be imported or called
``ratelimit.E003``     ``RATELIMIT_CIRCUIT_BREAKER``: an unknown option or a wrong value
``ratelimit.E004``     an entry of ``RATELIMIT_BACKENDS`` that can't be made
``ratelimit.E005``     an entry of ``RATELIMIT_TRUSTED_PROXIES`` that is no network
``ratelimit.E006``     ``RATELIMIT_MIDDLEWARE``: an unknown option or a wrong value
``ratelimit.E007``     the backend can't be made; of the database backend also: ``DATABASES`` has no such alias
``ratelimit.E008``     ``DEFAULT_THROTTLE_RATES`` of Django REST framework, where our throttles use it
``ratelimit.W001``     each process has a memory of its own, and this is no development server
``ratelimit.W002``     the database backend shares the connection of the requests
``ratelimit.W003``     ``RATELIMIT_MIDDLEWARE`` without the middleware
``ratelimit.W004``     the middleware limits users before it is known who they are
``ratelimit.W005``     the same as W002 on SQLite, where a transaction that has read may not be able to write
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

_REFUSALS = (ResilienceError, ImportError, TypeError, ValueError)  # a class of one's own may raise any of these

Apps = Iterable[AppConfig] | None


@register(TAG)
def check_names(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E001."""
    given = [*((name, "") for name in dir(settings)), *((name, ", but the environment has it") for name in os.environ)]
    return [
        Error(
            f"{name} is not a setting{where}.",
            hint=f"{_nearest(name)} If it is another library's, silence ratelimit.E001.",
            id="ratelimit.E001",
        )
        for name, where in given
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX).lower() not in SETTINGS
    ]


@register(TAG)
def check_values(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E002."""
    errors = []
    for name in SETTINGS:
        _, error = _read(name, handler if name.endswith("_handler") else setting)
        if error:
            errors.append(Error(error, id="ratelimit.E002"))
    return [*errors]


@register(TAG)
def check_circuit_breaker(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E003."""
    name = "RATELIMIT_CIRCUIT_BREAKER"
    options = {str(option): value for option, value in (_read("circuit_breaker")[0] or {}).items()}
    errors: list[CheckMessage] = []
    while error := _refusal(name, options):
        errors.append(Error(error.replace(f"breaker {name!r}", name), id="ratelimit.E003"))
        if not (named := [option for option in options if option in error]):
            break
        for option in named:  # what it complains of was said; there may be more
            del options[option]
    return errors


@register(TAG)
def check_trusted_proxies(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E005."""
    errors = []
    for entry in _read("trusted_proxies")[0] or ():
        try:
            Proxies([entry])
        except ConfigurationError as error:
            errors.append(Error(str(error), id="ratelimit.E005"))
    return [*errors]


@register(TAG)
def check_middleware(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E006, W003, W004."""
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
                "RATELIMIT_MIDDLEWARE limits nothing: the middleware that reads it is not installed.",
                hint=f"Add {_MIDDLEWARE!r} to MIDDLEWARE.",
                id="ratelimit.W003",
            )
        ]
    by_user = str(options.get("key", "")).startswith("user")
    if by_user and _AUTHENTICATION not in installed[: installed.index(_MIDDLEWARE)]:
        return [
            Warning(
                "RATELIMIT_MIDDLEWARE limits users, but nobody is logged in yet where it runs: addresses count.",
                hint=f"Put {_MIDDLEWARE!r} after {_AUTHENTICATION!r} in MIDDLEWARE.",
                id="ratelimit.W004",
            )
        ]
    return []


@register(TAG)
def check_throttles(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E008. If no throttle of ours is imported the rates are another library's, which may write them otherwise."""
    if "rest_framework" not in settings.INSTALLED_APPS:
        return []
    from rest_framework.settings import api_settings

    try:
        api_settings.DEFAULT_THROTTLE_CLASSES  # noqa: B018 - imports them
        throttles = sys.modules.get("ratelimit_core.django.drf")
        wrong = [] if throttles is None else throttles.wrong_rates()
    except _REFUSALS as error:
        wrong = [str(error)]
    return [Error(f"REST_FRAMEWORK: {message}", id="ratelimit.E008") for message in wrong]


@register(TAG)
def check_backend(app_configs: Apps, **_: Any) -> list[CheckMessage]:
    """E004, E007, W001, W002, W005. Backends are made, which connects to nothing."""
    errors: list[CheckMessage] = []
    names = set()
    for entry in _read("backends")[0] or ():
        try:
            factory.from_entry(entry)
            name = factory._entry(entry)[0]
            if name in names:
                raise ConfigurationError(f"two are called {name!r}; give each a 'name' of its own")
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
                "The backend is memory: each process counts for itself, so a limit of 10/s lets 10/s through in each.",
                hint="Set RATELIMIT_BACKEND = 'redis://...' or 'django-db://ALIAS'; with one process, silence this.",
                id="ratelimit.W001",
            )
        )
    if any(getattr(each, "alias", "") == "default" for each in members):
        errors.append(
            Warning(
                "The database backend shares the requests' connection: a rollback undoes what was counted.",
                hint="Give it an alias of its own: DATABASES['resilience'] = {...} and RATELIMIT_DATABASE = "
                "'resilience'; on SQLite with a file of its own.",
                id="ratelimit.W002",
            )
        )
        if _reads_first():
            errors.append(
                Warning(
                    "The database backend shares a connection of SQLite: in a transaction that has read it can't count "
                    "('database is locked') if another has written meanwhile, and this process decides alone.",
                    hint="Give it an alias with a file of its own, or DATABASES['default']['OPTIONS'] = "
                    "{'transaction_mode': 'IMMEDIATE'}, by which transactions begin with the lock.",
                    id="ratelimit.W005",
                )
            )
    return errors


def findings() -> list[tuple[bool, str, str]]:
    """What the checks say, in a process that has not set up Django yet: whether it is an error, what, and the hint."""
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
    """The value of a setting, or what is wrong with it."""
    try:
        return read(name), ""
    except ConfigurationError as error:
        message = _without_passwords(str(error))
        return None, message.replace(f"{name}=", f"{_PREFIX}{name.upper()} = ", 1)


def _refusal(name: str, options: Mapping[str, Any]) -> str:
    """What is wrong with the settings of a breaker, if anything."""
    try:
        CircuitBreakerConfig(name).with_options(options)
    except ConfigurationError as error:
        return str(error)
    return ""


def _nearest(name: str) -> str:
    known = [known.upper() for known in SETTINGS]
    near = nearest(name.removeprefix(_PREFIX), known)
    return f"Did you mean {_PREFIX}{near}?" if near else f"Known are {_PREFIX} and {', '.join(known)}."


def _without_passwords(text: str) -> str:
    return re.sub(r"//[^@\s'\"]*@", "//***@", text)
