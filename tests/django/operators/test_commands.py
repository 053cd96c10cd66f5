from __future__ import annotations

import io
import json
import os
import pty
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from ratelimit_core import BackendError, CircuitBreaker, Limiter, configure
from ratelimit_core.backends import Backend
from ratelimit_core.django.management.commands import ratelimit_health
from ratelimit_core.policies import COUNTER, PLACE
from ratelimit_core.protocol import place
from tests import databases
from tests.django.operators.conftest import Site, patient

AWAY = "redis://127.0.0.1:1/0"


@pytest.fixture
def own(project: Path, valkey_url: str) -> Site:
    """A site with a store that no other test sees."""
    return Site(project, patient(valkey_url))


@pytest.fixture
def store(own: Site) -> Iterator[Backend]:
    backend = own.backend()
    yield backend
    backend.clear()
    backend.close()


def opened(store: Backend, name: str) -> CircuitBreaker:
    breaker = CircuitBreaker(name, backend=store, failure_threshold=1, recovery_timeout=3000)
    breaker.acquire().failure()
    return breaker


# ratelimit_status


def test_status_shows_breakers_and_limits(own: Site, store: Backend) -> None:
    opened(store, "payments")
    CircuitBreaker("search", backend=store).force_closed("anna", "OPS-17", 3600)
    Limiter("10/m;1000/h", key="supplier", backend=store).hit()
    done = own.manage("ratelimit_status")
    assert (done.returncode, done.stderr) == (0, "")
    head, payments, search, empty, limits, *each = done.stdout.splitlines()
    assert head.split() == ["BREAKER", "STATE", "MODE", "FAILURES", "NEXT", "PROBE", "BY", "REASON"]
    assert payments.split() == ["payments", "open", "automatic", "1", "in", "50", "min"]
    assert search.split() == ["search", "closed", "forced_closed", "for", "60", "min", "0", "anna", "OPS-17"]
    assert (empty, limits.split()) == ("", ["LIMIT", "ON", "OF", "ALGORITHM"])
    assert sorted(line.split() for line in each) == [
        ["supplier", "10/m", "sliding_window"],
        ["supplier", "1000/h", "sliding_window"],
    ]


def test_status_says_that_a_breaker_is_in_the_shadow_where_that_is_known(store: Backend) -> None:
    databases.setup()
    configure(backend=store)
    CircuitBreaker("payments", failure_threshold=1, shadow=True).acquire().failure()
    said = io.StringIO()
    call_command("ratelimit_status", stdout=said)
    assert re.match(r"payments +open +automatic, in shadow mode +1 of 1 +in 60 s", said.getvalue().splitlines()[1])


def test_status_as_json(own: Site, store: Backend) -> None:
    opened(store, "payments\x1b[31m")
    Limiter("10/m", key="supplier", backend=store).hit()
    found = json.loads(own.manage("ratelimit_status", "--json").stdout)
    assert found["breakers"]["payments\x1b[31m"]["state"] == "open"
    assert found["limits"] == [{"key": "supplier", "limit": "10/m", "algorithm": "sliding_window"}]


def test_status_orders_no_terminal_about(own: Site, store: Backend) -> None:
    opened(store, "red\x1b[31m\nalert\u202e")
    shown = own.manage("ratelimit_status").stdout
    assert r"red\x1b[31m\nalert\u202e  open" in shown


def test_status_of_nothing(own: Site) -> None:
    assert own.manage("ratelimit_status").stdout.splitlines() == ["no breakers", "", "no limits in use"]


def test_status_says_that_memory_is_not_shared(own: Site) -> None:
    done = replace(own, store="memory://").manage("ratelimit_status")
    assert done.returncode == 0
    assert "the memory of this process" in done.stderr


# ratelimit_reset


def test_places_are_neither_shown_nor_reset(own: Site, store: Backend) -> None:
    assert store.apply(place.take("celery", "payments", 3))
    Limiter("1/h", key="celery", backend=store).hit()
    assert "place" not in own.manage("ratelimit_status").stdout
    done = own.manage("ratelimit_reset", "--limits", "celery", "--reason", "it is over")
    assert done.stdout.splitlines() == ["reset limit 1/h (sliding_window) on celery"], done.stderr
    assert own.manage("ratelimit_reset", "--limits", "celery", "--reason", "again").returncode == 1
    assert len(store.keys(PLACE)) == 2
    assert store.keys(COUNTER) == [("celery", "places")]


def test_reset_closes_breakers_and_forgets_limits(own: Site, store: Backend) -> None:
    breakers = [opened(store, name) for name in ("payments", "mail:eu", "search")]
    limiter = Limiter("1/h", key="supplier", backend=store)
    assert limiter.hit()
    assert not limiter.hit()
    done = own.manage("ratelimit_reset", "payments", "mail:eu", "--limits", "supplier", "--reason", "it is over")
    assert done.stdout.splitlines() == [
        "reset breaker payments",
        "reset breaker mail:eu",
        "reset limit 1/h (sliding_window) on supplier",
    ], done.stderr
    assert [breaker.get_status()["state"] for breaker in breakers] == ["closed", "closed", "open"]
    assert Limiter("1/h", key="supplier", backend=store).peek()
    newest = breakers[0].history()[0]
    assert (newest["event"], newest["author"], newest["reason"]) == ("reset", "operator", "it is over")


def test_reset_of_a_key_too_long_to_be_stored_whole(own: Site, store: Backend) -> None:
    key = "tenant-" * 100
    assert Limiter("1/h", key=key, backend=store).hit()
    done = own.manage("ratelimit_reset", "--limits", key, "--reason", "why not")
    assert done.returncode == 0, done.stderr
    assert Limiter("1/h", key=key, backend=store).peek()


def test_reset_all_asks_nothing_where_nobody_sits(own: Site, store: Backend) -> None:
    breakers = [opened(store, name) for name in ("payments", "search")]
    done = own.manage("ratelimit_reset", "--all-breakers", "--reason", "a new day")
    assert sorted(done.stdout.splitlines()) == ["reset breaker payments", "reset breaker search"]
    assert [breaker.state for breaker in breakers] == ["closed", "closed"]


@pytest.mark.parametrize(("answer", "state"), [("y", "closed"), ("n", "open")])
def test_reset_all_asks_at_a_terminal(own: Site, store: Backend, answer: str, state: str) -> None:
    breaker = opened(store, "payments")
    terminal, theirs = pty.openpty()
    os.write(terminal, f"{answer}\n".encode())
    done = own.manage("ratelimit_reset", "--all-breakers", "--reason", "a new day", stdin=theirs)
    os.close(terminal)
    os.close(theirs)
    assert "Reset 1 breakers in the whole fleet? [y/N]" in done.stdout
    assert breaker.state == state
    assert done.returncode == (0 if state == "closed" else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["paymants", "--reason", "x"],
            "no breaker 'paymants' is in use, so nothing was reset; did you mean 'payments'",
        ),
        (["payments", "--limits", "suplier", "--reason", "x"], "no limit on 'suplier' is in use, so nothing was reset"),
        (["--reason", "x"], "name breakers, or pass --all-breakers or --limits KEY"),
        (["payments", "--all-breakers", "--reason", "x"], "--all-breakers includes 'payments'"),
        (["payments", "--reason", " "], "--reason is empty"),
        (["payments"], "the following arguments are required: --reason"),
    ],
)
def test_reset_of_what_is_wrong_resets_nothing(own: Site, store: Backend, arguments: list[str], words: str) -> None:
    breaker = opened(store, "payments")
    done = own.manage("ratelimit_reset", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert breaker.state == "open"


def test_reset_says_what_it_did_before_the_store_went_away(store: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    databases.setup()
    configure(backend=store)
    breakers = [opened(store, name) for name in ("payments", "search")]
    reset = CircuitBreaker.reset

    def once(breaker: CircuitBreaker, author: str = "", reason: str = "") -> None:
        if breaker.name == "search":
            raise BackendError("gone")
        reset(breaker, author, reason)

    monkeypatch.setattr(CircuitBreaker, "reset", once)
    said = io.StringIO()
    with pytest.raises(CommandError, match="Only what is printed above was reset"):
        call_command("ratelimit_reset", "payments", "search", reason="it is over", stdout=said)
    assert said.getvalue() == "reset breaker payments\n"
    assert [breaker.state for breaker in breakers] == ["closed", "open"]


# ratelimit_health


def test_health_exits_by_what_it_finds(own: Site, store: Backend) -> None:
    well = own.manage("ratelimit_health", "--fail-on-open")
    assert (well.returncode, well.stdout) == (0, "store: up (RedisBackend); breakers: 0, open: 0\n")
    opened(store, "payments")
    assert own.manage("ratelimit_health").returncode == 0
    failing = own.manage("ratelimit_health", "--fail-on-open", "--json")
    assert failing.returncode == 2
    assert json.loads(failing.stdout)["failing"] == 1
    assert "1 of 1 breakers are open; `manage.py ratelimit_status` names them" in failing.stderr


def test_health_does_not_wait_for_a_store_that_hangs(own: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=3000"
        done = replace(own, store=url).manage("ratelimit_health", "--timeout", "0.3")
    assert done.returncode == 1
    assert done.stdout == "store: unavailable\n"
    assert "no answer within 0.3 s" in done.stderr


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("ratelimit_status", ""),
        ("ratelimit_status --json", ""),
        ("ratelimit_reset payments --reason x", ""),
        ("ratelimit_reset --all-breakers --limits supplier --reason x", ""),
        ("ratelimit_health", "store: unavailable\n"),
        ("ratelimit_health --fail-on-open", "store: unavailable\n"),
    ],
)
def test_the_store_away_is_an_error_that_says_so(own: Site, command: str, shown: str) -> None:
    done = replace(own, store=AWAY).manage(*command.split())
    assert (done.returncode, done.stdout) == (1, shown)
    assert "the store does not answer: Redis: ConnectionError" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_store_away_in_json(own: Site) -> None:
    done = replace(own, store=AWAY).manage("ratelimit_health", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["store"].pop("error").startswith("Redis: ConnectionError")
    away = {"up": False, "backend": "RedisBackend"}
    assert found == {"total": None, "failing": None, "healthy": False, "store": away}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--timeout soon", "argument --timeout: 'soon' should be seconds, more than 0"),
        ("--timeout 0", "argument --timeout: '0' should be seconds, more than 0"),
        ("--fail-on-opne", "unrecognized arguments: --fail-on-opne"),
        ("payments", "unrecognized arguments: payments"),
    ],
)
def test_a_wrong_option_is_not_a_breaker_that_is_open(own: Site, options: str, words: str) -> None:
    done = own.manage("ratelimit_health", *options.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: {words}" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_no_error(own: Site) -> None:
    done = own.manage("ratelimit_health", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--fail-on-open" in done.stdout


@pytest.mark.parametrize("command", ["ratelimit_status", "ratelimit_health", "check --tag ratelimit"])
@pytest.mark.parametrize("name", ["Broken", "no_such"])
def test_a_backend_that_can_not_be_made_is_an_error_that_says_why(own: Site, command: str, name: str) -> None:
    done = replace(own, store=f"tests.django.operators.site.broken.{name}").manage(*command.split())
    assert done.returncode == 1
    assert ("RuntimeError: out of order" if name == "Broken" else "no_such") in done.stderr
    assert "no answer within" not in done.stderr
    assert "Traceback" not in done.stderr


def test_health_says_what_it_ran_into(monkeypatch: pytest.MonkeyPatch) -> None:
    databases.setup()

    def broken() -> dict[str, Any]:
        raise RuntimeError("out of order")

    monkeypatch.setattr(ratelimit_health, "circuit_breaker_health", broken)
    with pytest.raises(CommandError, match="RuntimeError: out of order") as caught:
        ratelimit_health.Command().handle(fail_on_open=False, timeout=5.0, as_json=False)
    assert caught.value.returncode == 1
