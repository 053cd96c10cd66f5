"""What each process counts, whichever exporter adds it up."""

from __future__ import annotations

import atexit
from abc import ABC, abstractmethod

from ..circuit_breaker.cache import BreakerState
from ..events import Event, StateChanged, StoreAvailabilityChanged, subscribe
from ..store import fallback
from .counters import Counts

CALLS = "resilience_breaker_calls"
PROBES = "resilience_breaker_probes"
SHADOW_REJECTIONS = "resilience_breaker_shadow_rejections"
TRANSITIONS = "resilience_breaker_transitions"
DENIALS = "resilience_limit_denials"
ERRORS = "resilience_store_errors"
OUTAGES = "resilience_store_outages"
LATENCY = "resilience_store_seconds"
DEFERRALS = "resilience_task_deferrals"
DEFERRED = "resilience_task_deferred_seconds"
LIMITED = "resilience_task_rate_limited"
WAITED = "resilience_task_waited_seconds"

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    CALLS: ("Calls through the breaker that ended, or were refused", ("breaker", "outcome")),
    PROBES: ("Probes that were let through", ("breaker",)),
    SHADOW_REJECTIONS: ("Calls that would have been refused, but for the shadow", ("breaker",)),
    TRANSITIONS: ("Changes of state that this process caused", ("breaker", "to")),
    DENIALS: ("Hits that the limit denied", ("limit", "algorithm")),
    ERRORS: ("Round trips to the shared store that failed", ()),
    OUTAGES: ("How often the shared store went away", ()),
    DEFERRALS: ("Tasks that were put off", ("task", "reason")),
    DEFERRED: ("For how long", ("task", "reason")),
    LIMITED: ("Tasks that found a limit reached", ("task",)),
}
"""The help text and the labels of each counter."""

_OF_BREAKERS: dict[str, tuple[str, ...]] = {
    "successes": (CALLS, "success"),
    "failures": (CALLS, "failure"),
    "rejections": (CALLS, "not_permitted"),
    "probes": (PROBES,),
    "shadow_rejections": (SHADOW_REJECTIONS,),
}
"""The counter of each thing that breakers count, and its outcome there."""

HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    LATENCY: (
        "Round trips to the shared store",
        (),
        (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    ),
    WAITED: (
        "From the first deferral until the task ran",
        ("task",),
        (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0),
    ),
}
"""The help text, the labels and the bounds of the buckets in seconds, of each histogram."""


class Exporter(ABC):
    """Adds up what this process counts."""

    def __init__(self) -> None:
        self.counts = Counts()

    @abstractmethod
    def add(self, metric: str, number: float, *labels: str) -> None:
        """Count ``number`` more of one of :data:`COUNTERS`."""

    @abstractmethod
    def record(self, metric: str, value: float, *labels: str) -> None:
        """Note a value of one of :data:`HISTOGRAMS`."""

    def flush(self, *only: BreakerState) -> None:
        """Hand over what was counted since, of all breakers or ``only`` these. A killed process has not."""
        self._hand_over(self.counts.take(only or None))

    def flush_if_due(self) -> None:
        """:meth:`flush`, at most once a second, and of very many breakers a part each time."""
        if self.counts.due():
            self._hand_over(self.counts.take_some())

    def _hand_over(self, calls: dict[tuple[str, str], int]) -> None:
        for (breaker, what), number in calls.items():
            metric, *outcome = _OF_BREAKERS[what]
            self.add(metric, number, breaker, *outcome)
        for (limit, algorithm), number in self.counts.take_denials().items():
            self.add(DENIALS, number, limit, algorithm)


_exporters: list[Exporter] = []


def install(exporter: Exporter) -> None:
    """Have ``exporter`` add up what this process and those that it forks count; again, it does nothing."""
    if exporter in _exporters:
        return
    if not _exporters:
        fallback.observer = _observe
        subscribe(_note)
    _exporters.append(exporter)
    atexit.register(exporter.flush)


def add(metric: str, number: float, *labels: str) -> None:
    """:meth:`Exporter.add`, of all that are installed."""
    for exporter in _exporters:
        exporter.add(metric, number, *labels)


def record(metric: str, value: float, *labels: str) -> None:
    """:meth:`Exporter.record`, of all that are installed."""
    for exporter in _exporters:
        exporter.record(metric, value, *labels)


def flush(*only: BreakerState) -> None:
    """:meth:`Exporter.flush`, of all that are installed."""
    for exporter in _exporters:
        exporter.flush(*only)


def flush_if_due() -> None:
    """:meth:`Exporter.flush_if_due`, of all that are installed."""
    for exporter in _exporters:
        exporter.flush_if_due()


def _observe(seconds: float, failed: bool) -> None:
    record(LATENCY, seconds)
    if failed:
        add(ERRORS, 1)
    flush_if_due()


def _note(event: Event) -> None:
    for exporter in _exporters:
        match event:
            case StateChanged():
                exporter.add(TRANSITIONS, 1, exporter.counts.label(event.name), event.new)
            case StoreAvailabilityChanged(available=False):
                exporter.add(OUTAGES, 1)
        exporter.flush_if_due()
