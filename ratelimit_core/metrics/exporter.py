"""The metrics that each process counts, and the interface of exporters."""

from __future__ import annotations

import atexit
from abc import ABC, abstractmethod

from ..circuit_breaker.cache import BreakerCache
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
    CALLS: ("Calls through the breaker that ended or were rejected", ("breaker", "outcome")),
    PROBES: ("Probes that the breaker permitted", ("breaker",)),
    SHADOW_REJECTIONS: ("Calls that the breaker would have rejected without shadow mode", ("breaker",)),
    TRANSITIONS: ("Changes of the breaker's state that this process caused", ("breaker", "to")),
    DENIALS: ("Hits that the limit denied", ("limit", "algorithm")),
    ERRORS: ("Round trips to the shared store that failed", ()),
    OUTAGES: ("Times that the shared store became unavailable", ()),
    DEFERRALS: ("Tasks that were deferred", ("task", "reason")),
    DEFERRED: ("Seconds for which tasks were deferred", ("task", "reason")),
    LIMITED: ("Tasks that a limit denied", ("task",)),
}
"""The help text and the labels of each counter."""

_OF_BREAKERS: dict[str, tuple[str, ...]] = {
    "successes": (CALLS, "success"),
    "failures": (CALLS, "failure"),
    "rejections": (CALLS, "not_permitted"),
    "probes": (PROBES,),
    "shadow_rejections": (SHADOW_REJECTIONS,),
}
"""For each counter of a breaker: the metric and, if the metric has the label ``outcome``, the label's value."""

HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    LATENCY: (
        "Duration of a round trip to the shared store in seconds",
        (),
        (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    ),
    WAITED: (
        "Seconds from the first deferral of a task until it ran",
        ("task",),
        (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0),
    ),
}
"""The help text of each histogram, its labels, and the upper bounds of its buckets in seconds."""


class Exporter(ABC):
    """An exporter of the metrics that this process counts."""

    def __init__(self) -> None:
        self.counts = Counts()

    @abstractmethod
    def add(self, metric: str, number: float, *labels: str) -> None:
        """Add ``number`` to the counter ``metric``, one of :data:`COUNTERS`."""

    @abstractmethod
    def record(self, metric: str, value: float, *labels: str) -> None:
        """Record one value in seconds in the histogram ``metric``, one of :data:`HISTOGRAMS`."""

    def flush(self, *only: BreakerCache) -> None:
        """Add the counts since the last flush, of all limits, and of all breakers or of ``only`` these.

        If a process is killed, the counts since its last flush are lost.
        """
        self._hand_over(self.counts.take(only or None))

    def flush_if_due(self) -> None:
        """Do as :meth:`flush` does, at most once a second. If there are very many breakers, flush only some."""
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
    """Export the counts of this process and its forks through ``exporter``, unless it is installed already."""
    if exporter in _exporters:
        return
    if not _exporters:
        fallback.observer = _observe
        subscribe(_note)
    _exporters.append(exporter)
    atexit.register(exporter.flush)


def add(metric: str, number: float, *labels: str) -> None:
    """Call :meth:`Exporter.add` of all installed exporters."""
    for exporter in _exporters:
        exporter.add(metric, number, *labels)


def record(metric: str, value: float, *labels: str) -> None:
    """Call :meth:`Exporter.record` of all installed exporters."""
    for exporter in _exporters:
        exporter.record(metric, value, *labels)


def flush(*only: BreakerCache) -> None:
    """Call :meth:`Exporter.flush` of all installed exporters."""
    for exporter in _exporters:
        exporter.flush(*only)


def flush_if_due() -> None:
    """Call :meth:`Exporter.flush_if_due` of all installed exporters."""
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
