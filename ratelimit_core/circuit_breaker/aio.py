"""How a permit is settled in an event loop, also if the caller is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._util.aio import awaited, finished
from ..store.drive import Steps, adrive
from .permit import Permit, probes


async def settle_awaitable(permit: Permit, function: Callable[[], Any]) -> Any:
    """Await what ``function`` returns, settle the permit by how that ends, and return the result."""
    try:
        result = await (_as_probe(permit, function) if permit.probe else awaited(function()))
    except GeneratorExit:  # the coroutine is closed, and may not await
        permit.cancel()
        raise
    except BaseException as error:
        await settle(permit, permit.record_steps(error))
        raise
    await settle(permit, permit.record_result_steps(result))
    return result


async def _as_probe(permit: Permit, function: Callable[[], Any]) -> Any:
    """Await ``function``. Calls through the same breaker within it belong to the probe."""
    before = probes.push(permit)
    try:
        return await awaited(function())
    finally:
        with suppress(ValueError):  # it is closed in another context than it began in
            probes.reset(before)


async def settle(permit: Permit, steps: Steps[Any]) -> None:
    """Take the steps, if there are any. Without one no task is made, which would cost more than all else."""
    step = next(steps, None)
    if step is not None:
        await finished(adrive(steps, permit.store, step))
