"""Export metrics to Prometheus.

Run ``pip install resilient-tasks[prometheus]``, and call :func:`install` once in each process. If several processes are
one target, as under prefork or gunicorn, set ``PROMETHEUS_MULTIPROC_DIR``. See the documentation of
``prometheus_client``.
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
"""The registry of the counts of this process. ``PROMETHEUS_MULTIPROC_DIR`` has the counts of all processes."""


class Instruments(Exporter):
    """An exporter to the counters and histograms of ``prometheus_client``."""

    def __init__(self) -> None:
        super().__init__()
        self._counters = {name: Counter(name, text, labels, registry=own) for name, (text, labels) in COUNTERS.items()}
        self._histograms = {
            name: Histogram(name, text, labels, buckets=buckets, registry=own)
            for name, (text, labels, buckets) in HISTOGRAMS.items()
        }

    def add(self, metric: str, number: float, *labels: str) -> None:
        """Add ``number`` to the counter ``metric``."""
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(number)

    def record(self, metric: str, value: float, *labels: str) -> None:
        """Record one value in the histogram ``metric``."""
        histogram = self._histograms[metric]
        (histogram.labels(*labels) if labels else histogram).observe(value)


instruments = Instruments()


def install() -> None:
    """Count for Prometheus in this process and in its forks. A second call does nothing."""
    exporter.install(instruments)


class FleetCollector(Collector):
    """A collector of the state that the fleet shares, which it reads from the store at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of :func:`~ratelimit_core.metrics.fleet.readings`."""
        families = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
        for name, labels, value in readings():
            families[name].add_metric(labels, value)
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, so that a registration costs no round trip."""
        yield from (GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items())


class Exposition(Collector):
    """A collector of all metrics. Register it with ``registry.register(Exposition())``."""

    def __init__(self) -> None:
        self.registry = own
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self._fleet = FleetCollector()

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of the processes, and the state that the fleet shares."""
        instruments.flush()
        yield from self.registry.collect()
        yield from self._fleet.collect()


def exposition(accept: str = "") -> tuple[bytes, str]:
    """Return all metrics as text for Prometheus, and the content type of the text.

    ``accept`` is the request's header ``Accept``, which chooses the content type.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition())
    encode: Any
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
