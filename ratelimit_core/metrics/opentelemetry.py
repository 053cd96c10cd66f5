"""OpenTelemetry: ``pip install resilient-tasks[opentelemetry]``, and :func:`install` once in each process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from ..events import BreakerChanged, Event, subscribe
from .counts import counts
from .fleet import GAUGES, readings


def install(meter: Meter | None = None, *, fleet: bool = True) -> None:
    """Observe what this process counts and, with ``fleet``, what the fleet shares; the latter in one process.

    Call it in the process that exports: after the fork, under prefork. Not beside Prometheus' in one process, for
    each count is taken once.
    """
    meter = meter or get_meter("resilient-tasks")
    calls: Counter[tuple[str, str]] = Counter()
    transitions: Counter[tuple[str, str]] = Counter()

    def observe_calls(_: CallbackOptions) -> Iterable[Observation]:
        calls.update(counts.take())
        return [
            Observation(number, {"breaker": breaker, "outcome": outcome})
            for (breaker, outcome), number in calls.items()
        ]

    def note(event: Event) -> None:
        if isinstance(event, BreakerChanged):
            transitions[counts.label(event.name), event.new] += 1

    def observe_transitions(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(number, {"breaker": breaker, "to": to}) for (breaker, to), number in [*transitions.items()]]

    subscribe(note)
    meter.create_observable_counter("resilience.breaker.calls", [observe_calls])
    meter.create_observable_counter("resilience.breaker.transitions", [observe_transitions])
    if fleet:
        for name, (text, labels) in GAUGES.items():
            meter.create_observable_gauge(name.replace("_", ".", 1), [_gauge(name, labels)], description=text)


def _gauge(name: str, labels: tuple[str, ...]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(reading.value, dict(zip(labels, reading.labels, strict=True)))
            for reading in readings()
            if reading.name == name
        ]

    return observe
