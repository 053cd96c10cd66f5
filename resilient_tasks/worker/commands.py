"""``celery inspect breakers`` and ``limits``, ``celery control breaker_open``, ``breaker_close`` and ``breaker_reset``.

A command reaches every worker, but all workers share each breaker. So only one worker carries out a ``control``
command, and the other workers answer that another worker has done so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.control import control_command, inspect_command

from ratelimit_core.circuit_breaker import CircuitBreaker, circuit_breaker_registry
from ratelimit_core.errors import ResilienceError
from ratelimit_core.limiter import Limiter
from ratelimit_core.protocol.internal_keys import COMMAND_RATE, command

from ..protection import Protection

_WORDS: list[tuple[str, type]] = [("name", str), ("reason", str), ("author", str)]
_AUTHOR = "celery control"


@inspect_command(signature="")
def breakers(state: Any) -> dict[str, Any]:
    """Show the breakers of the fleet, and the queues that this worker pauses."""
    try:
        known: dict[str, Any] = circuit_breaker_registry.get_fleet_status()
    except ResilienceError as error:
        known = circuit_breaker_registry.get_all_status()
        known[""] = {"error": f"the store is unavailable: {error}"}
    gate = getattr(state.consumer, "resilience_gate", None)
    return {"breakers": known, "worker": gate.info(state.consumer) if gate is not None else {}}


@inspect_command(signature="")
def limits(state: Any) -> dict[str, Any]:
    """Show the limits of this worker's tasks. For limits without a ``rate_key``, show the remaining units too."""
    found: dict[str, Any] = {}
    for name, task in sorted(state.app.tasks.items()):
        protection: Protection | None = getattr(task, "resilience", None)
        if protection is None or protection.limiter is None:
            continue
        options = protection.options
        described: dict[str, Any] = {
            "rate": str(options.rate or ""),
            "concurrency": options.concurrency,
            "key": protection.limiter.key,
        }
        if options.rate_key is not None:
            described["rate_key"] = options.rate_key if isinstance(options.rate_key, str) else repr(options.rate_key)
        else:
            decision = protection.limiter.peek()
            described |= {"remaining": decision.remaining, "retry_after": decision.retry_after}
        found[name] = described
    return found


@control_command(args=[*_WORDS, ("ttl", float)], signature="NAME [REASON [AUTHOR [TTL]]]")
def breaker_open(state: Any, name: str, reason: str = "", author: str = _AUTHOR, ttl: float | None = None) -> Any:
    """Reject every call of a breaker in the whole fleet, for TTL seconds or until the breaker is closed or reset."""
    return _once("opened", name, reason, lambda breaker: breaker.force_open(author, reason, ttl))


@control_command(args=[*_WORDS, ("ttl", float)], signature="NAME [REASON [AUTHOR [TTL]]]")
def breaker_close(state: Any, name: str, reason: str = "", author: str = _AUTHOR, ttl: float | None = None) -> Any:
    """Permit every call of a breaker in the whole fleet, for TTL seconds or until the breaker is opened or reset."""
    return _once("closed", name, reason, lambda breaker: breaker.force_closed(author, reason, ttl))


@control_command(args=_WORDS, signature="NAME [REASON [AUTHOR]]")
def breaker_reset(state: Any, name: str, reason: str = "", author: str = _AUTHOR) -> Any:
    """Close a breaker in the whole fleet, and forget its counts and its manual override."""
    return _once("reset", name, reason, lambda breaker: breaker.reset(author, reason))


def _once(done: str, name: str, words: str, act: Callable[[CircuitBreaker], None]) -> dict[str, str]:
    """Carry out a command, unless another worker of the fleet does."""
    turn = Limiter(COMMAND_RATE, key=command(f"{done}:{name}:{words}"), algorithm="fixed_window")
    try:
        taken = turn.hit()
        if not taken:
            return {"ok": f"{name} {done} by another worker"}
        try:
            act(CircuitBreaker(name))
        except ResilienceError:
            turn.refund(taken)  # the command was not carried out
            raise
    except ResilienceError as error:
        return {"error": f"{name}: {error}"}
    return {"ok": f"{name} {done}"}
