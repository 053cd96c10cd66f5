"""Settle a permit in an event loop, even if the caller is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._util.aio import awaited, finished
from ..store.drive import Steps, adrive
from .permit import Permit, probes


async def settle_awaitable(permit: Permit, function: Callable[[], Any]) -> Any:
    """Call ``function`` and await what it returns. Settle the permit with the outcome, and return the result."""
    try:
        result = await (_as_probe(permit, function) if permit.probe else awaited(function()))
    except GeneratorExit:  # a coroutine that is being closed must not await
        permit.cancel()
        raise
    except BaseException as error:
        await settle(permit, permit.record_steps(error))
        raise
    await settle(permit, permit.record_result_steps(result))
    return result


async def _as_probe(permit: Permit, function: Callable[[], Any]) -> Any:
    """Call ``function`` and await what it returns. Inner calls through the same breaker belong to this probe."""
    before = probes.push(permit)
    try:
        return await awaited(function())
    finally:
        with suppress(ValueError):  # the coroutine may be closed in another context than its own
            probes.reset(before)


async def settle(permit: Permit, steps: Steps[Any]) -> None:
    """Run the steps. If there are no steps, create no asyncio task, because a task is slow to create."""
    step = next(steps, None)
    if step is not None:
        await finished(adrive(steps, permit.store, step))
