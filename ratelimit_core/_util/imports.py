"""Suggest the nearest dotted path, for errors about a path that does not exist."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from .suggest import did_you_mean, nearest


def nearest_path(path: str, known: Iterable[str] = ()) -> str:
    """Return a suggestion for an error that says that ``path`` does not exist, or ``""``.

    The suggestion is a similar name of the same module, or a similar path in ``known``.
    """
    module, _, name = path.rpartition(".")
    imported = sys.modules.get(module)
    defined = {} if imported is None else vars(imported)
    names = [*getattr(imported, "__all__", ()), *(each for each, value in defined.items() if callable(value))]
    near = nearest(name, names, 0.75)
    return did_you_mean(path, known) if near is None else f"; did you mean {f'{module}.{near}'!r}?"
