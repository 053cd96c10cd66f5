"""A page's whole story, in two servers that share a store, as its operators see it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.django.operators.browser import Browser
from tests.django.operators.conftest import Site
from tests.servers import eventually

PAGE = "/admin/ratelimit_core/breaker/payments/change/"


def pay(server: Browser, how: str = "well") -> tuple[int, str]:
    page = server.get(f"/pay/{how}/")
    return page.status, page.text


def events(operator: Browser) -> list[str]:
    """The history of the breaker on its page, the oldest first."""
    words = operator.get(PAGE).words.partition("History")[2]
    known = ("opened", "half open", "closed", "forced open", "reset")
    found = [(words.index(f" {each} "), each) for each in known if f" {each} " in words]
    return [each for _, each in sorted(found, reverse=True)]


def probe(server: Browser) -> tuple[int, str]:
    """Try until it is let through, and then hold it up until the gate opens."""
    answer = pay(server, "slowly")

    def let_through() -> bool:
        nonlocal answer
        answer = pay(server, "slowly")
        return answer[0] == 200

    eventually(let_through, every=0.1)
    return answer


@pytest.mark.parametrize("store", ["valkey", "database"])
def test_open_half_open_closed_forced_and_reset_in_two_processes(
    project: Path, request: pytest.FixtureRequest, store: str
) -> None:
    url = request.getfixturevalue("valkey_url") if store == "valkey" else "django-db://resilience"
    site = Site(project, url)
    with site.serving() as first, site.serving() as second, ThreadPoolExecutor() as background:
        operator = Browser(second.site).log_in("control")
        assert pay(first) == pay(second) == (200, "paid")

        for server in (first, second, first):
            assert pay(server, "badly") == (502, "failed")
        assert pay(first) == pay(second) == (503, "open")
        assert "State open Mode automatic Consecutive failures 3; opens at 3" in operator.get(PAGE).words
        assert json.loads(first.get("/resilience/health/").text)["failing"] == 1

        probing = background.submit(probe, first)
        eventually(lambda: "State half-open" in operator.get(PAGE).words, every=0.1)
        assert "Probes running 1" in operator.get(PAGE).words
        assert pay(second) == (503, "half_open"), "one probe in the whole fleet"
        Path(site.environ["SITE_GATE"]).touch()
        assert probing.result() == (200, "paid")
        eventually(lambda: pay(second) == (200, "paid"), timeout=2)  # a refusal is remembered for a second at most
        assert "State closed" in operator.get(PAGE).words
        assert events(operator) == ["opened", "half open", "closed"]

        operator.submit(PAGE, action="force_open", reason="the supplier asked us to", minutes=30)
        assert pay(first) == pay(second) == (503, "open")
        told = site.manage("ratelimit_status").stdout.splitlines()[1].split()
        assert told[:6] == ["payments", "open", "forced_open", "for", "30", "min"]
        assert told[-6:] == ["control", "the", "supplier", "asked", "us", "to"]

        operator.submit(PAGE, action="reset", reason="they are done")
        eventually(lambda: pay(first) == pay(second) == (200, "paid"), timeout=2)
        assert events(operator) == ["opened", "half open", "closed", "forced open", "reset"]
        health = json.loads(second.get("/resilience/health/").text)
        assert (health["total"], health["failing"], health["healthy"]) == (1, 0, True)
