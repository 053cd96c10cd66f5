"""Keys: find the part of a request that the request is counted by.

====================  ==========================================================================================
``"ip"``              the client's address (IPv6: its network of 64 bits); see :mod:`.addresses`
``"user"``            the user if logged in, otherwise the address; ``"user_or_ip"`` is the same
``"header:NAME"``     a header of the request, otherwise the address
``"get:NAME"``        a parameter of the query, otherwise the address
``"post:NAME"``       a field of the form (this reads the body), otherwise the address
``"attr:NAME"``       an attribute that a middleware sets (``"attr:tenant.id"``), otherwise the address
``"const:NAME"``      all requests count together
a function            of ``(request)`` or of ``(group, request)``, where the group is the limit's scope
====================  ==========================================================================================

If the part is missing, the address counts, because a client could otherwise escape a limit by leaving a header out.
Clients choose headers and parameters freely, and may change them for every request. Add a limit by ``"ip"`` to such a
key, or check the value first.

A function may return anything; the key is the ``str()`` of the result. ``None`` means that this request is not limited.
``""`` is a key like any other, and long or unusual keys are allowed. If the function raises, the address counts, and
the error is logged once for each limit. Exceptions that Django answers by itself (``Http404``, ``PermissionDenied``,
``BadRequest``, ``SuspiciousOperation``) are passed on.

Headers, parameters and form fields may be secret or personal, so only a hash of them reaches the store. Addresses,
primary keys of users, attributes and results of functions are stored as they are, unless they are long. The store keeps
them as long as the limit's record.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation, SynchronousOnlyOperation
from django.http import Http404, HttpRequest
from django.http.multipartparser import MultiPartParserError

from ..._util.suggest import unknown_option
from ...errors import ConfigurationError
from ..settings_cache import view_settings
from .callbacks import required_arguments

logger = logging.getLogger("ratelimit_core")

KeyFunction = Callable[[HttpRequest, str], str | None]
"""A function of a request and the limit's scope that returns the key, or None if the request is not limited."""

_MAX_KEY = 128
_ANSWERS = (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError, SynchronousOnlyOperation)
"""Exceptions of a key function that are passed on: Django answers them, or calls the function again in a thread."""


def by_address(request: HttpRequest, scope: str = "") -> str:
    """Return the key of ``"ip"``: the client's address."""
    return f"ip:{view_settings().proxies.origin(request).group}"


def by_user(request: HttpRequest, scope: str = "") -> str:
    """Return the key of ``"user"``: the user, or the address of an anonymous user."""
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated and user.pk is not None:
        return f"user:{_bounded(str(user.pk))}"
    return by_address(request)


def key_function(key: object) -> KeyFunction:
    """Return the function that finds ``key`` in a request.

    Raises:
        ConfigurationError: ``key`` is wrong. The message shows the valid keys, or the nearest.
    """
    if callable(key):
        return _of_function(key)
    if not isinstance(key, str):
        raise ConfigurationError(f"key={key!r} should be a string such as 'ip', or a function of the request")
    kind, colon, name = key.partition(":")
    if key == "ip":
        return by_address
    if key in ("user", "user_or_ip"):
        return _guarded(by_user, key)
    if not colon or kind not in _NAMED:
        raise unknown_option("key", key, ["ip", "user", "user_or_ip", *(f"{kind}:NAME" for kind in _NAMED)])
    if not name or name != name.strip():
        raise ConfigurationError(f"key={key!r} should have a name after the colon, as in 'header:X-Api-Key'")
    return _NAMED[kind](name)


def _of_header(name: str) -> KeyFunction:
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise ConfigurationError(f"key='header:{name}': {name!r} is not the name of a header, as in 'header:X-Api-Key'")
    meta = name.upper().replace("-", "_")
    meta = meta if meta in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{meta}"
    return _hashed(f"header:{name.lower()}", lambda request: request.META.get(meta))


def _of_query(name: str) -> KeyFunction:
    return _hashed(f"get:{name}", lambda request: request.GET.get(name))


def _of_form(name: str) -> KeyFunction:
    return _hashed(f"post:{name}", lambda request: request.POST.get(name))


def _hashed(label: str, value_of: Callable[[HttpRequest], Any]) -> KeyFunction:
    def hashed(request: HttpRequest, scope: str) -> str:
        value = value_of(request)
        if not value:
            return by_address(request)
        return f"{label}:{_hash(str(value))}"

    return _guarded(hashed, label)


def _of_attribute(name: str) -> KeyFunction:
    value_of = attrgetter(name)

    def attribute(request: HttpRequest, scope: str) -> str:
        try:
            value = value_of(request)
        except AttributeError:
            value = None
        value = getattr(value, "pk", value)
        return by_address(request) if value is None else f"attr:{name}:{_bounded(str(value))}"

    return _guarded(attribute, f"attr:{name}")


def _of_constant(name: str) -> KeyFunction:
    constant = f"const:{_bounded(name)}"
    return lambda request, scope: constant


def _of_function(function: Callable[..., Any]) -> KeyFunction:
    takes_group = required_arguments(function, "key", 2) == 2

    def called(request: HttpRequest, scope: str) -> str | None:
        value = function(scope, request) if takes_group else function(request)
        if value is None:
            return None
        if inspect.iscoroutine(value):
            value.close()
            raise ConfigurationError(f"key={function!r} should be a plain function, but returned a coroutine")
        return f"key:{_bounded(str(value))}"

    return _guarded(called, f"{function!r}")


def _guarded(find: KeyFunction, label: str) -> KeyFunction:
    told = False

    def guarded(request: HttpRequest, scope: str) -> str | None:
        nonlocal told
        try:
            return find(request, scope)
        except _ANSWERS:
            raise
        except Exception:
            if not told:
                told = True
                logger.exception(
                    "rate_limit: %r: the key %s raised an exception, so the client's address counts instead",
                    scope,
                    label,
                )
            return by_address(request)

    return guarded


def _bounded(text: str) -> str:
    """Return ``text``, or for a long text its beginning and a hash."""
    return text if len(text) <= _MAX_KEY else f"{text[:32]}~{_hash(text)}"


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


_NAMED: dict[str, Callable[[str], KeyFunction]] = {
    "header": _of_header,
    "get": _of_query,
    "post": _of_form,
    "attr": _of_attribute,
    "const": _of_constant,
}
