"""A breaker whose tasks pause, as one worker's consumer sees it."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from ratelimit_core.circuit_breaker import CircuitBreaker
from ratelimit_core.circuit_breaker.permit import Permit

if TYPE_CHECKING:
    from ..protection import Protection
    from .request import ResilientRequest


class Mode(Enum):
    """How a lane is."""

    FLOWING = auto()
    STOPPED = auto()
    PROBING = auto()
    RELEASING = auto()


class Lane:
    """The tasks of one breaker that pause, as this worker's consumer sees them."""

    def __init__(self, protection: Protection, breaker: CircuitBreaker) -> None:
        self.protection = protection
        self.breaker = breaker
        self.queues: set[str] = set()
        self.mode = Mode.FLOWING
        self.held: list[ResilientRequest] = []
        self.permit: Permit | None = None
        self.prober: ResilientRequest | None = None
        self.by_turns_until = 0.0
        self.waiting = 0  # how many there were when that was said

    @property
    def stops(self) -> bool:
        """Whether its queues are to be left alone."""
        return self.mode in (Mode.STOPPED, Mode.PROBING)

    def end_probe(self) -> None:
        """Give the probe's place back, if nobody did."""
        permit, self.permit, self.prober = self.permit, None, None
        if permit is not None:
            permit.cancel()
