"""Build errors that suggest the nearest right spelling."""

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
"""The new names of options that were renamed before the first release."""


def unknown_option(where: str, name: str, known: Iterable[str]) -> ConfigurationError:
    """Return the error for an option that does not exist, with its new name or the nearest one that exists."""
    known = list(known)
    renamed = RENAMED.get(name)
    hint = f"; it is called {renamed!r} now" if renamed in known else did_you_mean(name, known)
    hint = hint or f"; known are: {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: unknown option {name!r}{hint}")


def not_one_of(option: str, value: object, known: Iterable[str]) -> ConfigurationError:
    """Return the error for a value that is none of the ``known`` ones, with the nearest one."""
    listed = ", ".join(map(repr, known))
    return ConfigurationError(f"{option}={value!r} should be one of {listed}{did_you_mean(value, known)}")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return the end of an error about ``given``: the nearest of ``known``, or ``""``."""
    near = nearest(given, known)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(given: object, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Return which of ``known`` was probably meant by ``given``, or None. Upper and lower case count as equal."""
    import difflib

    if not isinstance(given, str):
        return None
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """Return ``error``, which stopped the import of ``module``, with a message that names the extra to install."""
    message = f"{module} can't be imported: {error}. Install what it needs: pip install 'resilient-tasks[{extra}]'"
    return type(error)(message, name=error.name)


def mistyped_argument(error: Exception, known: Iterable[str]) -> str:
    """Return what to add to Python's own error for an unknown argument: the nearest of ``known``, or ``""``."""
    found = re.search(r"unexpected keyword argument '(\w+)'\Z", str(error))  # from 3.13 on Python may suggest one
    return did_you_mean(found[1], known) if found else ""
