"""Prometheus: ``pip install resilient-tasks[prometheus]``, and :func:`install` once in each process.

Where several processes are one target (prefork, gunicorn), set ``PROMETHEUS_MULTIPROC_DIR``, as for anything else that
they count: see the documentation of ``prometheus_client``.
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
"""What this process counts. Where several are one target, what they all count is in their common directory."""


class Instruments(Exporter):
    """Prometheus' counters and histograms."""

    def __init__(self) -> None:
        super().__init__()
        self._counters = {name: Counter(name, text, labels, registry=own) for name, (text, labels) in COUNTERS.items()}
        self._histograms = {
            name: Histogram(name, text, labels, buckets=buckets, registry=own)
            for name, (text, labels, buckets) in HISTOGRAMS.items()
        }

    def add(self, metric: str, number: float, *labels: str) -> None:
        """Count ``number`` more."""
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(number)

    def record(self, metric: str, value: float, *labels: str) -> None:
        """Note a value."""
        histogram = self._histograms[metric]
        (histogram.labels(*labels) if labels else histogram).observe(value)


instruments = Instruments()


def install() -> None:
    """Count in this process; again, it does nothing. In a process that forks, its children count too."""
    exporter.install(instruments)


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
        instruments.flush()
        yield from self.registry.collect()
        yield from self._fleet.collect()


def exposition(accept: str = "") -> tuple[bytes, str]:
    """What Prometheus is to read, and its content type, of those that the header ``Accept`` names."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition())
    encode: Any
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
