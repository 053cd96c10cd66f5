"""Cache a verdict, and announce a change of the breaker's state."""

from __future__ import annotations

from .._util.clock import SECOND
from ..events import StateChanged
from ..policies.circuit_breaker import OPEN
from ..protocol.breaker import STATES, BreakerVerdict
from ..store.drive import Steps
from . import history
from .cache import BreakerCache


def apply_and_announce(
    cache: BreakerCache, verdict: BreakerVerdict, *, local: bool, written: bool, asked: bool
) -> Steps[None]:
    """Cache the verdict. If the breaker's state changed with it, emit the event and write the history.

    Args:
        cache: the breaker's cache in this process.
        verdict: the policy's verdict.
        local: whether the verdict comes from the memory of this process.
        written: whether the new record was written. Otherwise, a change of state in the verdict did not happen.
        asked: whether the verdict answers a request for a permit.
    """
    cache.update(verdict, local=local, asked=asked)
    if written and verdict.previous_state != verdict.state:
        change = StateChanged(
            cache.config.name,
            STATES[verdict.previous_state],
            STATES[verdict.state],
            failure_count=verdict.failure_count,
            retry_after=verdict.open_duration if verdict.state == OPEN else 0.0,
            local=local,
            shadow=verdict.in_shadow_mode(cache.config.shadow),
        )
        yield "emit", change
        entry = history.transition_entry(change, verdict.changed_at / SECOND)
        yield "append_history", *history.journal_arguments(entry), local
