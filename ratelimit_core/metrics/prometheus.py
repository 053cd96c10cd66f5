"""Prometheus: ``pip install resilient-tasks[prometheus]``, and :func:`install` once in each process.

Where several processes are one target (prefork, gunicorn), set ``PROMETHEUS_MULTIPROC_DIR``, as for all other metrics:
see the documentation of ``prometheus_client``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from .._util.suggest import missing_extra
from . import exporter
from .exporter import COUNTERS, HISTOGRAMS, Exporter
from .fleet import GAUGES, readings

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector
except ImportError as error:
    raise missing_extra(__name__, "prometheus", error) from None

own = CollectorRegistry()
"""The registry of this process's counts. Where several processes are one target, their common directory has all."""


class Instruments(Exporter):
    """An exporter to Prometheus' counters and histograms."""

    def __init__(self) -> None:
        super().__init__()
        self._counters = {name: Counter(name, text, labels, registry=own) for name, (text, labels) in COUNTERS.items()}
        self._histograms = {
            name: Histogram(name, text, labels, buckets=buckets, registry=own)
            for name, (text, labels, buckets) in HISTOGRAMS.items()
        }

    def add(self, metric: str, number: float, *labels: str) -> None:
        """Add ``number`` to a counter."""
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(number)

    def record(self, metric: str, value: float, *labels: str) -> None:
        """Record one value of a histogram."""
        histogram = self._histograms[metric]
        (histogram.labels(*labels) if labels else histogram).observe(value)


instruments = Instruments()


def install() -> None:
    """Count in this process and in the children that it forks. A second call does nothing."""
    exporter.install(instruments)


class FleetCollector(Collector):
    """The state that the fleet shares, read from its store at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield the values of :func:`~ratelimit_core.metrics.fleet.readings`."""
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
        for name, labels, value in readings():
            families[name].add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, so that registration asks no store."""
        yield from (GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items())


class Exposition(Collector):
    """All metrics, for ``registry.register(Exposition())`` or to be scraped on its own."""

    def __init__(self) -> None:
        self.registry = own
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self._fleet = FleetCollector()

    def collect(self) -> Iterator[Metric]:
        """Yield what processes counted, and the state that the fleet shares."""
        instruments.flush()
        yield from self.registry.collect()
        yield from self._fleet.collect()


def exposition(accept: str = "") -> tuple[bytes, str]:
    """Return the text that Prometheus reads, and its content type: one of those in the header ``Accept``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition())
    encode: Any
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
