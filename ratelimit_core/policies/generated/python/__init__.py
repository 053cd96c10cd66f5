"""The hit that costs 1, of each policy that limits, as :mod:`ratelimit_core.codegen` makes it of the policy.

Each module has ``hit``, which takes the configuration (and what of an event follows from it) and returns what decides
as the policy does, and ``LEASES``, which says whether that looks at leases, and takes one.
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
"""Of the record, the time, the leases by their end, and where among those the ones begin that last."""


@lru_cache(maxsize=4096)
def hit_of(policy: Policy, event: tuple[int, ...], config: tuple[int, ...]) -> tuple[Decide, bool]:
    """What decides hits under one configuration, and whether they are leases."""
    module = import_module(f"{__name__}.{policy.name}")
    values = dict(zip((*policy.event, *policy.config), (*event, *config), strict=True))
    return module.hit(**{name: values[name] for name in inspect.signature(module.hit).parameters}), module.LEASES
