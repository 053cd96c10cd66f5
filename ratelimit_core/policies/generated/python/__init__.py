"""Decide hits of cost 1 faster: one generated module for each policy that limits.

Each module has ``hit``, which takes the configuration and the part of an event that depends on it, and returns a
function that decides as the policy does. ``LEASES`` says whether that reads leases and adds one.
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
"""Takes the record, the time, the leases by their end, and how many of these are over."""


@lru_cache(maxsize=4096)
def hit_of(policy: Policy, event: tuple[int, ...], config: tuple[int, ...]) -> tuple[Decide, bool]:
    """Return the function that decides hits under one configuration, and whether it uses leases."""
    module = import_module(f"{__name__}.{policy.name}")
    values = dict(zip((*policy.event, *policy.config), (*event, *config), strict=True))
    return module.hit(**{name: values[name] for name in inspect.signature(module.hit).parameters}), module.LEASES
