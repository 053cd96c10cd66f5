"""Prometheus: ``pip install resilient-tasks[prometheus]``, and :func:`install` once in each process.

Where several processes are one target (prefork, gunicorn), set ``PROMETHEUS_MULTIPROC_DIR``, as for anything else that
they count: see the documentation of ``prometheus_client``.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from .. import store
from ..breaker_state import BreakerState
from ..events import BreakerChanged, Event, StoreChanged, subscribe
from .counts import counts
from .fleet import GAUGES, readings

own = CollectorRegistry()
"""What this process counts. Where several are one target, what they all count is in their common directory."""
_calls = Counter(
    "resilience_breaker_calls", "What came of calls through the breaker", ["breaker", "outcome"], registry=own
)
_transitions = Counter(
    "resilience_breaker_transitions", "Changes of state that this process caused", ["breaker", "to"], registry=own
)
_outages = Counter("resilience_store_outages", "How often the shared store went away", registry=own)
_errors = Counter("resilience_store_errors", "Round trips to the shared store that failed", registry=own)
_latency = Histogram(
    "resilience_store_seconds",
    "Round trips to the shared store",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    registry=own,
)
deferrals = Counter("resilience_task_deferrals", "Tasks that were put off", ["task", "reason"], registry=own)
deferred = Counter("resilience_task_deferred_seconds", "For how long", ["task", "reason"], registry=own)
waited = Histogram(
    "resilience_task_waited_seconds",
    "From the first deferral until the task ran",
    ["task"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 14400, 86400),
    registry=own,
)
limited = Counter("resilience_task_rate_limited", "Tasks that found a limit reached", ["task"], registry=own)


def flush(*only: BreakerState) -> None:
    """Hand over what was counted since, of all breakers or ``only`` these. What a killed process did not is lost."""
    for (breaker, outcome), number in counts.take(only or None).items():
        _calls.labels(breaker, outcome).inc(number)


def flush_if_due() -> None:
    """:func:`flush`, at most once a second."""
    if counts.due():
        flush()


def install() -> None:
    """Count in this process; again, it does nothing. In a process that forks, its children count too."""
    if store.observer is None:
        store.observer = _observe
        subscribe(_note)
        atexit.register(flush)


def _observe(seconds: float, failed: bool) -> None:
    _latency.observe(seconds)
    if failed:
        _errors.inc()
    flush_if_due()


def _note(event: Event) -> None:
    match event:
        case BreakerChanged():
            _transitions.labels(counts.label(event.name), event.new).inc()
        case StoreChanged(up=False):
            _outages.inc()
    flush_if_due()


class FleetCollector(Collector):
    """What the fleet shares, read from its store at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """See :func:`~ratelimit_core.metrics.fleet.readings`."""
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
        for name, labels, value in readings():
            families[name].add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """The same without values, so that nobody asks the store when it is registered."""
        yield from (GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items())


class Exposition(Collector):
    """All of it, for ``registry.register(Exposition())`` or to be scraped by itself."""

    def __init__(self) -> None:
        self.registry = own
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self._fleet = FleetCollector()

    def collect(self) -> Iterator[Metric]:
        """What processes counted, and what the fleet shares."""
        flush()
        yield from self.registry.collect()
        yield from self._fleet.collect()


def exposition() -> bytes:
    """What Prometheus is to read."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition())
    return generate_latest(registry)
