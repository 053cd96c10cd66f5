"""Functions that decide hits of cost 1 faster: one generated module for each policy of a limit.

Each module has a function ``hit``. It takes the configuration and the part of the event that depends on the
configuration, and returns a function that decides as the policy does. ``LEASES`` is True if that function uses leases.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module

from ... import Policy, Verdict

__all__ = ["Decide", "Ends", "Record", "Verdict", "hit_of"]

Record = tuple[int, ...]
Ends = Sequence[tuple[int, str]]
Decide = Callable[[Record, int, Ends, int], Verdict]
"""A function of the record, the time, the leases sorted by their end, and the number of leases that have ended."""


@lru_cache(maxsize=4096)
def hit_of(policy: Policy, event: tuple[int, ...], config: tuple[int, ...]) -> tuple[Decide, bool]:
    """Return the function that decides hits under one configuration, and whether it uses leases."""
    module = import_module(f"{__name__}.{policy.name}")
    values = dict(zip((*policy.event, *policy.config), (*event, *config), strict=True))
    return module.hit(**{name: values[name] for name in inspect.signature(module.hit).parameters}), module.LEASES
