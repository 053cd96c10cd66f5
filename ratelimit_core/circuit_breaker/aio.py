"""Permits that are settled in an event loop, also when the caller is cancelled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..store.drive import Steps, arun
from .permit import Permit, probes

if sys.version_info >= (3, 12):
    pass
else:  # this one sees there what asgiref marks as a coroutine function
    pass
from .._util.aio import awaited, finished


async def judged(permit: Permit, function: Callable[[], Any]) -> Any:
    """What ``function`` answers when awaited, and the permit settled by it, whoever is cancelled."""
    try:
        result = await (_as_probe(permit, function) if permit.probe else awaited(function()))
    except GeneratorExit:  # closed, and may not await
        permit.cancel()
        raise
    except BaseException as error:
        await settled(permit, permit.record_steps(error))
        raise
    await settled(permit, permit.record_result_steps(result))
    return result


async def _as_probe(permit: Permit, function: Callable[[], Any]) -> Any:
    """What a probe calls through its own breaker again is still that probe."""
    before = probes.set((*probes.get(), permit))
    try:
        return await awaited(function())
    finally:
        with suppress(ValueError):  # closed in another context than it began in
            probes.reset(before)


async def settled(permit: Permit, steps: Steps[Any]) -> None:
    """Take the steps, if there are any: a task costs more than all else on the healthy path."""
    step = next(steps, None)
    if step is not None:
        await finished(arun(steps, permit.store, step))
