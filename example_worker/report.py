"""What the guarded pass has to keep, and by how much it may not miss."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from example_worker.celery_app import app
from example_worker.fleet import CONCURRENCY, WORKERS
from example_worker.outage import Sample
from example_worker.tasks import BREAKER, CALLS_PER_SECOND
from example_worker.visitor import EVERY, Visitor
from ratelimit_core import CircuitBreaker, CircuitBreakerConfig

ON_ITS_WAY = 0.25  # seconds that a permitted call may take to reach the service, on a busy machine


@dataclass(frozen=True, slots=True)
class Figures:
    """What a pass came to."""

    name: str
    orders: int
    completed: int
    twice: int
    retries: int
    outage: float
    outage_calls: int
    busiest_second: int
    drained_after: float
    ideal: float
    visits: int
    visits_saved: int
    visit: float

    @property
    def lost(self) -> int:
        return self.orders - self.completed

    @property
    def visits_failed(self) -> int:
        """Those that waited for the dead service, and were told of an error."""
        return self.visits - self.visits_saved

    @classmethod
    def of(cls, sample: Sample, ids: Iterable[str], visitor: Visitor) -> "Figures":
        """From the last sample, the tasks' results (completed is what was charged and says so) and the visitor."""
        stats = sample.stats
        (outage,) = stats["outages"]
        results = [app.AsyncResult(id) for id in ids]
        return cls(
            name=sample.name,
            orders=sample.orders,
            completed=min(sample.done, sum(result.successful() for result in results)),
            twice=stats["duplicates"],
            retries=sum(result.retries or 0 for result in results),
            outage=outage["ended"] - outage["began"],
            outage_calls=sample.outage_calls,
            busiest_second=stats["peak_in_any_second"],
            drained_after=max(0.0, (stats["last_charge"] or 0.0) - outage["ended"]),
            ideal=(sample.orders - outage["charged_before_its_end"]) / CALLS_PER_SECOND,
            visits=len(visitor.answers),
            visits_saved=sum(answer.saved for answer in visitor.answers),
            visit=visitor.typical,
        )


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that there may be of something, and what that is made of; empty for nothing at all."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        return f"{self.total} = " + " + ".join(f"{number} {what}" for what, number in self.parts.items())


def outage_bound(outage: float) -> Bound:
    """How many calls may reach a service while it is down: the first promise of a breaker."""
    breaker = CircuitBreaker(BREAKER).config
    return Bound(
        {
            "failures open it": breaker.failure_threshold,
            "running then": WORKERS * CONCURRENCY + 1,  # the visitor's too
            # of permits that were reused meanwhile: as many as the limit has in any second
            f"within {breaker.cache_ttl} s": CALLS_PER_SECOND,
            "probes": sum(1 for _ in probes(breaker, outage)),
        }
    )


def visits_bound(outage: float) -> Bound:
    """How many visits may meet the dead service: all that may open the breaker, or find it not yet known as open."""
    breaker = CircuitBreaker(BREAKER).config
    return Bound(
        {
            "failures open it": breaker.failure_threshold,
            f"within {breaker.cache_ttl} s": math.ceil(breaker.cache_ttl / EVERY),
            "probes": sum(1 for _ in probes(breaker, outage)),
        }
    )


def probes(breaker: CircuitBreakerConfig, outage: float) -> Iterator[float]:
    """When probes are due in an outage that opens the breaker at once: after 2 s, then 4, 4, ..."""
    wait = due = breaker.recovery_timeout
    while due < outage:
        yield due
        wait = min(wait * breaker.exponential_backoff_multiplier, breaker.exponential_backoff_max)
        due += wait


def second_bound() -> Bound:
    """How many calls may reach the service in any second: the limit, and some that were on their way."""
    late = int(CALLS_PER_SECOND * ON_ITS_WAY)
    return Bound({"by the limit": CALLS_PER_SECOND, f"late by up to {ON_ITS_WAY} s": late})


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the guarded pass has to keep."""

    what: str
    number: int
    bound: Bound

    @property
    def kept(self) -> bool:
        return self.number <= self.bound.total


def checks(figures: Figures) -> list[Check]:
    """What decides the exit status."""
    return [
        Check("orders lost", figures.lost, Bound({})),
        Check("orders charged twice", figures.twice, Bound({})),
        Check("calls in the outage", figures.outage_calls, outage_bound(figures.outage)),
        Check("calls in the busiest second", figures.busiest_second, second_bound()),
        Check("visits that met the dead service", figures.visits_failed, visits_bound(figures.outage)),
    ]
