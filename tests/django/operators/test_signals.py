from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.dispatch import Signal
from django.utils.asyncio import async_unsafe

from ratelimit_core import BackendError, CircuitBreaker, CircuitBreakerError, events
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.django import signals
from ratelimit_core.store.fallback import Store
from ratelimit_core.testing import ManualClock
from tests import databases
from tests.django.operators.conftest import Site

ALL = {
    "opened": signals.breaker_opened,
    "half_open": signals.breaker_half_open,
    "closed": signals.breaker_closed,
    "mode": signals.breaker_mode_changed,
    "store": signals.store_availability_changed,
}


@pytest.fixture
def heard() -> Iterator[list[tuple[str, Any, dict[str, Any]]]]:
    """What receivers of every signal were told, each once connected."""
    found: list[tuple[str, Any, dict[str, Any]]] = []
    receivers = []
    for label, signal in ALL.items():

        def receiver(sender: Any, signal: Signal, label: str = label, **values: Any) -> None:
            found.append((label, sender, values))

        signal.connect(receiver)
        receivers.append((signal, receiver))
    signals.connect()
    signals.connect()
    yield found
    for signal, receiver in receivers:
        signal.disconnect(receiver)


def test_what_happens_to_a_breaker_is_sent_once(
    heard: list[tuple[str, Any, dict[str, Any]]], clock: ManualClock
) -> None:
    breaker = CircuitBreaker(
        "sent", failure_threshold=1, recovery_timeout=10, backend=MemoryBackend(clock=clock), clock=clock
    )
    breaker.acquire().failure()
    clock.advance(11)
    breaker.acquire().success()
    breaker.force_open("anna", "a drill", 60)
    assert [label for label, _, _ in heard] == ["opened", "half_open", "closed", "mode"]
    assert {sender for _, sender, _ in heard} == {CircuitBreaker}
    assert {values["name"] for _, _, values in heard} == {"sent"}
    opened, mode = heard[0][2]["event"], heard[3][2]["event"]
    assert (opened.new, opened.failure_count, opened.retry_after) == ("open", 1, 10)
    assert (mode.mode, mode.author, mode.reason, mode.ttl) == ("forced_open", "anna", "a drill", 60)


def test_a_store_that_goes_away_is_sent(heard: list[tuple[str, Any, dict[str, Any]]]) -> None:
    events.emit(events.StoreAvailabilityChanged(available=False, reason="no answer"))
    events.emit(events.StoreAvailabilityChanged(available=True))
    assert [(label, values["available"], values["reason"]) for label, _, values in heard] == [
        ("store", False, "no answer"),
        ("store", True, ""),
    ]


def test_a_receiver_that_raises_breaks_nothing(
    heard: list[tuple[str, Any, dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**values: Any) -> None:
        raise RuntimeError("the pager is out of order")

    signals.breaker_opened.connect(broken)
    try:
        breaker = CircuitBreaker("broken receiver", failure_threshold=1, backend=MemoryBackend())
        breaker.acquire().failure()
        with pytest.raises(CircuitBreakerError):
            breaker.acquire()
    finally:
        signals.breaker_opened.disconnect(broken)
    assert [label for label, _, _ in heard] == ["opened"], "the others are called all the same"
    told = [record for record in caplog.records if record.name == "django.dispatch"]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert "broken" in told[0].getMessage()


def test_receivers_of_both_kinds_hear_from_threads_and_from_event_loops() -> None:
    databases.setup()
    told: list[str] = []
    signal = Signal()

    async def receiver(what: str, **values: Any) -> None:
        told.append(what)

    def asks_the_database(what: str, **values: Any) -> None:
        told.append(f"{ask_database()} {what}")

    signal.connect(receiver)
    signal.connect(asks_the_database)
    signals.send(signal, None, what="from a thread")

    async def view() -> None:
        await signals.asend(signal, None, what="from a view")
        signals.send(signal, None, what="from a plain function in a loop")

    asyncio.run(view())
    expected = ["from a thread", "from a view", "from a plain function in a loop"]
    assert sorted(told) == sorted([*expected, *(f"asked {what}" for what in expected)])


@async_unsafe
def ask_database() -> str:
    """What an ORM call does in an event loop: it refuses."""
    return "asked"


@pytest.mark.parametrize("way", ["aacquire", "acquire"])
def test_what_happens_in_an_event_loop_reaches_receivers_of_both_kinds_once(clock: ManualClock, way: str) -> None:
    databases.setup()
    told: list[str] = []

    async def awaits(event: Any, **values: Any) -> None:
        await asyncio.sleep(0)
        told.append(f"awaited {getattr(event, 'new', '') or getattr(event, 'mode', '')}")

    def asks(event: Any, **values: Any) -> None:
        told.append(f"{ask_database()} {getattr(event, 'new', '') or getattr(event, 'mode', '')}")

    async def scenario() -> None:
        options: dict[str, Any] = {"failure_threshold": 1, "recovery_timeout": 10}
        breaker = CircuitBreaker("in a loop", backend=MemoryBackend(clock=clock), clock=clock, **options)
        if way == "acquire":
            breaker.acquire().failure()
            clock.advance(11)
            breaker.acquire().success()
        else:
            await (await breaker.aacquire()).afailure()
            clock.advance(11)
            await (await breaker.aacquire()).asuccess()
        breaker.force_open()

    signals.connect()
    of_breakers = [ALL[name] for name in ("opened", "half_open", "closed", "mode")]
    for signal in of_breakers:
        signal.connect(awaits)
        signal.connect(asks)
    try:
        asyncio.run(scenario())
    finally:
        for signal in of_breakers:
            signal.disconnect(awaits)
            signal.disconnect(asks)
    happened = ["open", "half_open", "closed", "forced_open"]
    assert sorted(told) == sorted(f"{how} {what}" for how in ("awaited", "asked") for what in happened)


def test_a_store_that_goes_away_in_an_event_loop_reaches_them_too(clock: ManualClock) -> None:
    told: list[Any] = []

    async def awaits(available: bool, **values: Any) -> None:
        told.append(available)

    def asks(available: bool, **values: Any) -> None:
        told.append((ask_database(), available))

    class Fails(MemoryBackend):
        away = True

        async def _aapply(self, calls: Any) -> Any:
            if self.away:
                raise BackendError("gone")
            return self._apply(calls)

    async def scenario() -> None:
        backend = Fails()
        store = Store(backend, clock=clock)
        with pytest.raises(BackendError):
            await store.aapply([])
        backend.away = False
        clock.advance(6)
        await store.aapply([])

    signals.connect()
    signals.store_availability_changed.connect(awaits)
    signals.store_availability_changed.connect(asks)
    try:
        asyncio.run(scenario())
    finally:
        signals.store_availability_changed.disconnect(awaits)
        signals.store_availability_changed.disconnect(asks)
    assert sorted(told, key=str) == [("asked", False), ("asked", True), False, True]


def test_a_django_process_sends_them_without_being_told_to(site: Site) -> None:
    program = """
import django
django.setup()
django.setup()
from ratelimit_core import CircuitBreaker
from ratelimit_core.django.signals import breaker_opened
def receiver(name, event, **values): print("opened", name, event.retry_after)
breaker_opened.connect(receiver)
CircuitBreaker("in Django", failure_threshold=1, recovery_timeout=7).acquire().failure()
"""
    done = site.python("-c", program)
    assert done.stdout.splitlines() == ["opened in Django 7.0"], done.stderr
