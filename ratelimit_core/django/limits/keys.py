"""What is limited: the part of a request that says whose it is.

====================  ==========================================================================================
``"ip"``              the client's address (IPv6: its network of 64 bits); see :mod:`.addresses`
``"user"``            who is logged in, else the address; ``"user_or_ip"`` is the same
``"header:NAME"``     a header of the request, else the address
``"get:NAME"``        a parameter of the query, else the address
``"post:NAME"``       a field of the form, which is read for it, else the address
``"attr:NAME"``       an attribute of the request, as a middleware sets it (``"attr:tenant.id"``), else the address
``"const:NAME"``      all requests together
a function            of ``(request)`` or of ``(group, request)``, where the group is the limit's scope
====================  ==========================================================================================

What is missing gives way to the address, else leaving a header out would be the way around a limit. And what the
client chooses freely, a header or a parameter, it may choose anew for every request: put a limit by ``"ip"`` beside
it, or check it first.

A function may return anything: it counts as its ``str()``. ``None`` means that this request is not limited; ``""``
is a key like others; a long or strange one is as good as any. If the function raises, the address counts, and the
log tells, once for each limit; but what Django answers by itself (``Http404``, ``PermissionDenied``,
``BadRequest``, ``SuspiciousOperation``) is its answer.

What headers and parameters hold may be secret or personal, so only a hash of it reaches the store. Addresses and the
primary keys of users are stored as they are, for as long as the limit remembers.
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
"""Of a request and the limit's scope, the key; None if it is not limited."""

_MAX_KEY = 128
_ANSWERS = (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError, SynchronousOnlyOperation)
"""What a key function may raise: Django's own answers, and what tells to ask again in a thread."""


def by_address(request: HttpRequest, scope: str = "") -> str:
    """``"ip"``."""
    return f"ip:{view_settings().proxies.origin(request).group}"


def by_user(request: HttpRequest, scope: str = "") -> str:
    """``"user"``."""
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated and user.pk is not None:
        return f"user:{_bounded(str(user.pk))}"
    return by_address(request)


def key_function(key: object) -> KeyFunction:
    """What finds ``key`` in a request.

    Raises:
        ConfigurationError: it is no key; the message says what is, or names the nearest.
    """
    if callable(key):
        return _of_function(key)
    if not isinstance(key, str):
        raise ConfigurationError(f"key={key!r} should be a string, as 'ip', or a function of the request")
    kind, colon, name = key.partition(":")
    if key == "ip":
        return by_address
    if key in ("user", "user_or_ip"):
        return _guarded(by_user, key)
    if not colon or kind not in _NAMED:
        raise unknown_option("key", key, ["ip", "user", "user_or_ip", *(f"{kind}:NAME" for kind in _NAMED)])
    if not name or name != name.strip():
        raise ConfigurationError(f"key={key!r} should have a name after the colon")
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
            raise ConfigurationError("a key function should be a plain function; this one returned a coroutine")
        return f"key:{_bounded(str(value))}"

    return _guarded(called, f"of {function!r}")


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
                logger.exception("rate_limit: the key %s of %r failed; the client's address counts", label, scope)
            return by_address(request)

    return guarded


def _bounded(text: str) -> str:
    """``text``, or if it is long its beginning and a hash."""
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
