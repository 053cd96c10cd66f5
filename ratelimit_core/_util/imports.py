"""Errors about dotted paths that name the nearest right one."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from .suggest import did_you_mean, nearest


def nearest_path(path: str, known: Iterable[str] = ()) -> str:
    """What an error about a dotted path ends with: the nearest in the same module, or of ``known``; or nothing."""
    module, _, name = path.rpartition(".")
    imported = sys.modules.get(module)
    defined = {} if imported is None else vars(imported)
    names = [*getattr(imported, "__all__", ()), *(each for each, value in defined.items() if callable(value))]
    near = nearest(name, names, 0.75)
    return did_you_mean(path, known) if near is None else f"; did you mean {f'{module}.{near}'!r}?"
