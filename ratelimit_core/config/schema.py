"""All settings, with their defaults and checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

OnStoreFailure = Literal["local", "allow", "deny"]
"""How a guard decides while the store is unavailable: alone in this process, or by allowing or denying every call."""


class Setting(NamedTuple):
    """A setting.

    Attributes:
        default: the default value.
        check: a function that converts a value to the type of the setting, or raises an error such as ``ValueError``.
        expected: the values that the setting accepts, for error messages.
        words: the possible values, if the setting accepts only a few words.
    """

    default: Any
    check: Callable[[Any], Any]
    expected: str
    words: tuple[str, ...] = ()


def _mapping(value: Any) -> Mapping[str, Any]:
    value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        return value
    raise ValueError


def _list(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",")]
    if isinstance(value, Sequence):
        return value
    raise ValueError


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError


def _seconds(value: Any) -> float:
    if 0 < float(value) <= 3600:
        return float(value)
    raise ValueError


def _count(value: Any) -> int:
    if not isinstance(value, bool) and int(value) >= 1 and float(value) == int(value):
        return int(value)
    raise ValueError


def _flag(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    return words[value.strip().lower()] if isinstance(value, str) else words[repr(value)]


def _one_of(default: str, *others: str) -> Setting:
    words = (default, *others)

    def check(value: Any) -> str:
        if value in words:
            return str(value)
        raise ValueError

    return Setting(default, check, f"one of {', '.join(map(repr, words))}", words)


def _callable(value: Any) -> Any:
    if callable(value) or (isinstance(value, str) and value.replace(".", "").replace("_", "").isalnum()):
        return value
    raise ValueError


_DICTIONARY = "a dictionary (in the environment, as JSON)"
_FUNCTION = "a function, or the dotted path of one"

SETTINGS: dict[str, Setting] = {
    "enable": Setting(True, _flag, "True or False"),
    "backend": Setting("memory://", lambda value: value, "a URL, a dotted path, a registered name or a Backend"),
    "backend_options": Setting(None, _mapping, _DICTIONARY),
    "backends": Setting(None, _list, "a list of dictionaries with 'type', 'name' and 'options'"),
    "multi_backend_strategy": _one_of("first_healthy", "round_robin"),
    "redis": Setting(None, _mapping, _DICTIONARY),
    "database": Setting("default", _text, "the alias of a database in DATABASES"),
    "memory_max_keys": Setting(100_000, _count, "a whole number, 1 or more"),
    "circuit_breaker": Setting(None, _mapping, _DICTIONARY),
    "key_prefix": Setting("resilient", _text, "a string"),
    "store_retry_interval": Setting(5.0, _seconds, "seconds, more than 0 and at most 3600"),
    "algorithm": _one_of("sliding_window", "sliding_window_counter", "fixed_window", "token_bucket", "leaky_bucket"),
    "on_store_failure": _one_of("local", "allow", "deny")._replace(default=None),
    "fail_open": Setting(None, _flag, "True for on_store_failure='allow', False for 'deny'"),
    "trusted_proxies": Setting((), _list, "a list of addresses and networks, as in ['10.0.0.0/8']"),
    "response_handler": Setting(None, _callable, _FUNCTION),
    "exception_handler": Setting(None, _callable, _FUNCTION),
    "metrics_token": Setting("", _text, "a string, the Bearer token that Prometheus sends"),
    "middleware": Setting(None, _mapping, _DICTIONARY),
}
"""All settings by name. In Django and in the environment a name is in capitals, after ``RATELIMIT_``."""
OF_VIEWS = frozenset(
    {
        "enable",
        "algorithm",
        "on_store_failure",
        "fail_open",
        "trusted_proxies",
        "response_handler",
        "exception_handler",
        "metrics_token",
        "middleware",
    }
)
"""The names of the settings that only the integration with Django's views reads."""
