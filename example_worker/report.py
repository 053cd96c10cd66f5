"""The results of a pass, and the bounds that the guarded pass has to keep."""

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
    """The results of a pass. Times are in seconds."""

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
        """The number of visits that got no ``Retry-After``, because they called the service while it was down."""
        return self.visits - self.visits_saved

    @classmethod
    def of(cls, sample: Sample, ids: Iterable[str], visitor: Visitor) -> "Figures":
        """Build the results from the last sample, the tasks' results and the visitor.

        An order is completed if it was charged and its task succeeded.
        """
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
    """The upper bound of a number, as a sum of named parts. Without parts, the bound is 0."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        return f"{self.total} = " + " + ".join(f"{number} {what}" for what, number in self.parts.items())


def outage_bound(outage: float) -> Bound:
    """Return how many calls may reach the service in an outage of ``outage`` seconds."""
    breaker = CircuitBreaker(BREAKER).config
    return Bound(
        {
            "failures that open the breaker": breaker.failure_threshold,
            "calls running then": WORKERS * CONCURRENCY + 1,  # and one of the visitor
            # A cached verdict permits calls for this long, at most as many as the limit allows in any second.
            f"calls in the next {breaker.cache_ttl} s": CALLS_PER_SECOND,
            "probes": sum(1 for _ in probes(breaker, outage)),
        }
    )


def visits_bound(outage: float) -> Bound:
    """Return how many visits may call the service in an outage of ``outage`` seconds."""
    breaker = CircuitBreaker(BREAKER).config
    return Bound(
        {
            "failures that open the breaker": breaker.failure_threshold,
            f"visits in the next {breaker.cache_ttl} s": math.ceil(breaker.cache_ttl / EVERY),
            "probes": sum(1 for _ in probes(breaker, outage)),
        }
    )


def probes(breaker: CircuitBreakerConfig, outage: float) -> Iterator[float]:
    """Yield when probes are due, in seconds since the opening: after 2 s, then every 4 s."""
    wait = due = breaker.recovery_timeout
    while due < outage:
        yield due
        wait = min(wait * breaker.exponential_backoff_multiplier, breaker.exponential_backoff_max)
        due += wait


def second_bound() -> Bound:
    """Return how many calls may reach the service in any second: the limit, and calls that arrive late."""
    late = int(CALLS_PER_SECOND * ON_ITS_WAY)
    return Bound({"calls that the limit allows": CALLS_PER_SECOND, f"calls up to {ON_ITS_WAY} s late": late})


@dataclass(frozen=True, slots=True)
class Check:
    """A bound that the guarded pass has to keep."""

    what: str
    number: int
    bound: Bound

    @property
    def kept(self) -> bool:
        return self.number <= self.bound.total


def checks(figures: Figures) -> list[Check]:
    """Return the checks that decide the exit status."""
    return [
        Check("orders lost", figures.lost, Bound({})),
        Check("orders charged twice", figures.twice, Bound({})),
        Check("calls in the outage", figures.outage_calls, outage_bound(figures.outage)),
        Check("calls in the busiest second", figures.busiest_second, second_bound()),
        Check("visits without Retry-After in the outage", figures.visits_failed, visits_bound(figures.outage)),
    ]
