"""Export metrics to OpenTelemetry.

Run ``pip install resilient-tasks[opentelemetry]``, and call :func:`install` once in each process. The metrics are the
same as for Prometheus. In their names, dots replace the first two underscores, as in ``resilience.breaker.calls`` and
``resilience.task.waited_seconds``.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from .._util.clock import SECOND
from .._util.fork import renewed_after_fork
from .._util.suggest import missing_extra
from .._util.throttle import Resting
from . import exporter
from .exporter import COUNTERS, HISTOGRAMS, Exporter
from .fleet import GAUGES, Reading, readings

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
except ImportError as error:
    raise missing_extra(__name__, "opentelemetry", error) from None

_Observe = Callable[[CallbackOptions], Iterable[Observation]]


def install(meter: Meter | None = None, *, fleet: bool = True) -> None:
    """Export the counts of this process and, with ``fleet``, the state that the fleet shares.

    Call this function in each process that exports. Under prefork, call it after the fork. Pass ``fleet=False`` in all
    processes but one.
    """
    meter = meter or get_meter("resilient-tasks")
    exporter.install(Instruments(meter))
    if fleet:
        look = Resting(readings, at_least=SECOND)  # a collection calls the function once for each gauge
        for name, (text, labels) in GAUGES.items():
            meter.create_observable_gauge(_dotted(name), [_gauge(name, labels, look)], description=text)


def _dotted(name: str) -> str:
    return name.replace("_", ".", 2)


class Instruments(Exporter):
    """An exporter to OpenTelemetry. Its counters are read when OpenTelemetry collects metrics."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._begin()
        _instances.add(self)
        for name, (text, labels) in COUNTERS.items():
            meter.create_observable_counter(_dotted(name), [self._counter(name, labels)], description=text)
        self._histograms = {
            name: meter.create_histogram(
                _dotted(name), unit="s", description=text, explicit_bucket_boundaries_advisory=buckets
            )
            for name, (text, _, buckets) in HISTOGRAMS.items()
        }

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._totals: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)

    def add(self, metric: str, number: float, *labels: str) -> None:
        """Add ``number`` to the counter ``metric``."""
        with self._lock:
            self._totals[metric][labels] += number  # type: ignore[assignment] # some counters count seconds

    def record(self, metric: str, value: float, *labels: str) -> None:
        """Record one value in the histogram ``metric``."""
        self._histograms[metric].record(value, dict(zip(HISTOGRAMS[metric][1], labels, strict=True)))

    def _counter(self, metric: str, names: tuple[str, ...]) -> _Observe:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            self.flush()
            with self._lock:
                totals = dict(self._totals[metric])
            return [Observation(number, dict(zip(names, labels, strict=True))) for labels, number in totals.items()]

        return observe


_instances = renewed_after_fork(Instruments._begin)  # a child exports its own counts


def _gauge(metric: str, names: tuple[str, ...], look: Callable[[], list[Reading]]) -> _Observe:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, dict(zip(names, labels, strict=True)))
            for name, labels, value in look()
            if name == metric
        ]

    return observe
