from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ratelimit_core import CircuitBreaker
from tests.django.operators.browser import Browser
from tests.django.operators.conftest import Site
from tests.servers import eventually

HEALTH = "/resilience/health/"


@pytest.fixture
def monitor(server: str) -> Browser:
    """Nobody in particular."""
    return Browser(server)


def test_it_counts_breakers_and_names_none(site: Site, monitor: Browser) -> None:
    up = {"up": True, "backend": "RedisBackend"}
    page = monitor.get(HEALTH)
    assert (page.status, json.loads(page.text)) == (200, {"total": 0, "failing": 0, "healthy": True, "store": up})
    backend = site.backend()
    CircuitBreaker("well", backend=backend).call(len, "")
    secret = CircuitBreaker("secret supplier", backend=backend, failure_threshold=1)
    secret.acquire().failure()
    eventually(lambda: monitor.get(HEALTH).text != page.text)  # what the store said is good for a moment
    page = monitor.get(HEALTH)
    assert json.loads(page.text) == {"total": 2, "failing": 1, "healthy": False, "store": up}
    assert page.status == 200, "an open breaker is no reason to take the process out of service"
    assert monitor.get(HEALTH + "?fail_on_open=1").status == 503
    assert monitor.get(HEALTH + "?fail_on_open=0").status == 200

    def becomes(status: int) -> None:
        eventually(lambda: monitor.get(HEALTH + "?fail_on_open=1").status == status)

    secret.reset()
    becomes(200)
    secret.force_open("anna", "a drill")
    becomes(503)
    secret.disable("anna", "the drill is over")
    becomes(200)


def test_only_get_and_head(monitor: Browser) -> None:
    assert monitor.ask(HEALTH, "HEAD").status == 200
    assert monitor.ask(HEALTH, "OPTIONS").status == 405
    assert monitor.ask(HEALTH, "POST", {}).status in (403, 405)


def test_the_store_away_is_503_and_tells_no_hosts(site: Site) -> None:
    away = replace(site, store="redis://127.0.0.1:1/0")
    with away.serving() as monitor:
        page = monitor.get(HEALTH)
        store = {"up": False, "backend": "RedisBackend"}
        assert json.loads(page.text) == {"total": None, "failing": None, "healthy": False, "store": store}
        assert page.status == 503
        assert monitor.get("/pay/well/").text == "paid", "the process itself goes on"
