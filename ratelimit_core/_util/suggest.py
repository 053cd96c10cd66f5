"""Errors that name the nearest right spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import ConfigurationError

RENAMED = {
    "when_down": "on_store_failure",
    "ramp": "slow_start",
    "verdict_ttl": "cache_ttl",
    "obey_retry_after": "respect_retry_after",
    "failure_result": "is_failure",
    "store_retry_after": "store_retry_interval",
    "on_publish_open": "on_publish_while_open",
    "max_held": "max_deferred_in_worker",
    "release_rate": "resume_rate",
}
"""Options by the names that they had before the first release."""


def unknown_option(where: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """Return the error for an option that does not exist, with its new name or the nearest one that exists."""
    known = list(known)
    renamed = RENAMED.get(name)
    hint = f"; it is called {renamed!r} now" if renamed in known else did_you_mean(name, known)
    hint = hint or f"; known are: {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: unknown option {name!r}{hint}")


def not_one_of(option: str, value: object, known: Iterable[str]) -> ConfigurationError:
    """The error for a value that is none of those that there are, with the nearest one."""
    listed = ", ".join(map(repr, known))
    return ConfigurationError(f"{option}={value!r} should be one of {listed}{did_you_mean(value, known)}")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """What an error about ``given`` ends with: the nearest of ``known``, or nothing."""
    near = nearest(given, known)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(given: object, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Which of ``known`` was probably meant by ``given``, if any. Capitals are no difference."""
    import difflib

    if not isinstance(given, str):
        return None
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """Return ``error``, which kept ``module`` from being imported, with a message that says which extra to install."""
    message = f"{module} can't be imported: {error}. Install what it needs: pip install 'resilient-tasks[{extra}]'"
    return type(error)(message, name=error.name)


def mistyped_argument(error: Exception, known: Iterable[str]) -> str:
    """What to add to Python's own error for an argument that does not exist: the nearest of ``known``, or nothing."""
    found = re.search(r"unexpected keyword argument '(\w+)'\Z", str(error))  # from 3.13 on, it may know itself
    return did_you_mean(found[1], known) if found else ""
