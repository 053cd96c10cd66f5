"""Build errors that suggest the nearest known name."""

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
    """Return the error for an option that does not exist. The error suggests the new name or the nearest known name."""
    known = list(known)
    renamed = RENAMED.get(name)
    hint = f"; it is called {renamed!r} now" if renamed in known else did_you_mean(name, known)
    hint = hint or f"; the known options are: {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: unknown option {name!r}{hint}")


def not_one_of(option: str, value: object, known: Iterable[str]) -> ConfigurationError:
    """Return the error for a value that is not among the ``known`` values. The error suggests the nearest of them."""
    listed = ", ".join(map(repr, known))
    return ConfigurationError(f"{option}={value!r} should be one of {listed}{did_you_mean(value, known)}")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return a suggestion for an error about ``given``: the nearest of ``known``, or ``""``."""
    near = nearest(given, known)
    return "" if near is None else f"; did you mean {near!r}?"


def nearest(given: object, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Return the element of ``known`` that ``given`` probably means, or None. Case is ignored."""
    import difflib

    if not isinstance(given, str):
        return None
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """Return the error for a ``module`` that can't be imported. The message names the extra to install.

    ``error`` is the original error.
    """
    message = f"{module} can't be imported: {error}. Install the extra: pip install 'resilient-tasks[{extra}]'"
    return type(error)(message, name=error.name)


def mistyped_argument(error: Exception, known: Iterable[str]) -> str:
    """Return a suggestion for an error about an unknown argument: the nearest of ``known``, or ``""``.

    ``error`` is the error that Python raised for the argument.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'\Z", str(error))  # Python 3.13 may add its own suggestion
    return did_you_mean(found[1], known) if found else ""
