from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.dispatch import Signal

from ratelimit_core import CircuitBreaker, CircuitBreakerError, events
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.clock import ManualClock
from ratelimit_core.django import signals
from tests.operators.conftest import Site

ALL = {
    "opened": signals.breaker_opened,
    "half_open": signals.breaker_half_open,
    "closed": signals.breaker_closed,
    "mode": signals.breaker_mode_changed,
    "store": signals.store_changed,
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
    events.emit(events.StoreChanged(up=False, reason="no answer"))
    events.emit(events.StoreChanged(up=True))
    assert [(label, values["up"], values["reason"]) for label, _, values in heard] == [
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


def test_an_asynchronous_receiver_hears_from_threads_and_from_asynchronous_views(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    signal = Signal()

    async def receiver(what: str, **values: Any) -> None:
        told.append(what)

    signal.connect(receiver)
    signals.send(signal, None, what="from a thread")

    async def view() -> None:
        await signals.asend(signal, None, what="from a view")
        signals.send(signal, None, what="can't be: the loop runs")

    asyncio.run(view())
    assert told == ["from a thread", "from a view"]
    assert "the receivers of a signal could not be called" in caplog.text


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
