"""The site as `make run` starts it: web processes and workers that share one mind about the payment service."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.project.example.running import left_over, new_mark, start
from tests.servers import Process, eventually

pytestmark = pytest.mark.job


class Site:
    """A browser on the site's page."""

    def __init__(self, process: Process) -> None:
        self.url = process.wait_for("  Site ").split()[-1]
        self.password = process.wait_for("  Admin ").rsplit("password ", 1)[1].rstrip(")")
        process.wait_for("ready.", timeout=60)  # the worker
        self.browser = requests.Session()
        eventually(self.answers)

    def answers(self) -> bool:
        try:
            return self.browser.get(self.url, timeout=5).ok
        except requests.ConnectionError:
            return False

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.browser.get(self.url + "state/", timeout=10).json()
        return found

    def has_two_processes(self) -> bool:
        return len({self.get("state/").json()["process"] for _ in range(10)}) == 2

    def post(self, path: str, accept: str = "application/json", **fields: str) -> requests.Response:
        fields["csrfmiddlewaretoken"] = self.browser.cookies["csrftoken"]
        headers = {"Accept": accept}
        return self.browser.post(self.url + path, fields, headers=headers, timeout=30, allow_redirects=False)

    def connections(self) -> list[requests.Session]:
        """One to each web process, which keeps it."""
        found: dict[int, requests.Session] = {}
        while len(found) < 2:
            session = requests.Session()
            process = session.get(self.url + "state/", timeout=10).json()["process"]
            if found.setdefault(process, session) is not session:
                session.close()
        return [*found.values()]

    def get(self, path: str) -> requests.Response:
        """On a new connection, so that either web process may answer."""
        return requests.get(self.url + path, timeout=10)


def started(mark: str, directory: Path) -> Process:
    return start("run", mark, TMPDIR=str(directory), EXAMPLE_PREFIX=f"test-site-{mark}.")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with started(new_mark(), tmp_path_factory.mktemp("run")) as process:
        yield Site(process)


def test_the_page_is_whole_and_keeps_its_content_security_policy(site: Site) -> None:
    page = site.get("")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert not re.search(
        r'<style|\sstyle=|\son\w+=|javascript:|<script(?! src=| id="state" type="application/json")', page.text
    )
    linked = re.findall(r'(?:src|href)="/(static/[^"]+)"', page.text)
    assert len(linked) == 3
    assert [site.get(path).status_code for path in linked] == [200] * 3


def test_orders_wait_out_an_outage_and_are_charged_after_it(site: Site) -> None:
    charged = 1 + sum(site.state()["counts"].values())  # other tests have placed orders, too
    (first,) = site.post("orders/", number="1").json()["placed"]
    eventually(lambda: site.state()["counts"]["charged"] == charged)
    assert site.get("quote/").json() == {"fee": "1.4 %"}

    assert site.post("service/", mode="down").json() == {"mode": "down"}
    assert len(site.post("orders/", number="50").json()["placed"]) == 50
    eventually(lambda: site.state()["counts"] == {"placed": 0, "waiting": 50, "charged": charged, "failed": 0})
    eventually(lambda: site.state()["breaker"]["state"] == "open")
    state = site.state()
    assert first not in [order["id"] for order in state["orders"]]  # the page shows the latest 50
    assert {order["state"] for order in state["orders"]} == {"waiting"}
    assert "breaker payments is open" in {order["why"] for order in state["orders"]}
    assert 0 < max(order["wait"] for order in state["orders"]) < 30

    calls = state["service"]["calls"]
    answers = [site.get("quote/") for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) >= 18  # one or another may have been a probe
    assert {answer.status_code for answer in answers} <= {502, 503}
    assert 1 <= min(int(answer.headers["Retry-After"]) for answer in refused) <= 4
    assert site.state()["service"]["calls"] - calls <= 4
    eventually(site.has_two_processes)

    site.post("service/", mode="up")
    eventually(lambda: site.state()["counts"] == {"placed": 0, "waiting": 0, "charged": charged + 50, "failed": 0})
    state = site.state()
    assert state["breaker"]["state"] == "closed"
    assert (state["service"]["orders"], state["service"]["duplicates"]) == (charged + 50, 0)
    eventually(lambda: site.get("quote/").status_code == 200)  # within the limit, that is


def test_what_one_process_has_counted_the_other_one_refuses(site: Site) -> None:
    one, other = site.connections()
    with one, other:
        for _ in range(10):
            began = time.monotonic()
            served = [one.get(site.url + "api/orders/", timeout=10) for _ in range(5)]
            refused = other.get(site.url + "api/orders/", timeout=10)
            if time.monotonic() - began < 1:
                break
            time.sleep(1)  # they were not within a second, which the limit is for: again, when none counts any more
        else:
            pytest.fail("too busy a machine to make six requests in a second")
    assert [answer.status_code for answer in (*served, refused)] == [200] * 5 + [429]
    assert refused.headers["Retry-After"] == "1"
    for left, answer in zip((4, 3, 2, 1, 0, 0), (*served, refused), strict=True):
        assert answer.headers["RateLimit-Policy"] == '"5-per-1s";q=5;w=1, "60-per-60s";q=60;w=60'
        assert answer.headers["RateLimit"].startswith(f'"5-per-1s";r={left}')
    assert "orders" in served[0].json()


def test_the_admin_shows_orders_and_breakers_to_the_user_of_this_run(site: Site) -> None:
    admin = requests.Session()
    admin.get(site.url + "admin/login/", timeout=10)
    form = {"username": "demo", "password": site.password, "csrfmiddlewaretoken": admin.cookies["csrftoken"]}
    assert "Shop" in admin.post(site.url + "admin/login/?next=/admin/", form, timeout=10).text
    site.get("quote/")  # a breaker is listed once it is in use
    assert "payments" in admin.get(site.url + "admin/ratelimit_core/breaker/", timeout=10).text
    assert admin.get(site.url + "admin/example_worker/order/", timeout=10).status_code == 200
    health = site.get("resilience/health/").json()
    assert health["store"] == {"up": True, "backend": "RedisBackend"}


def test_forms_work_without_javascript_and_refuse_nonsense(site: Site) -> None:
    placed = site.post("orders/", "text/html,*/*;q=0.8", number="1")
    assert (placed.status_code, placed.headers["Location"]) == (302, "/")
    assert site.post("orders/", number="3").status_code == 400
    assert site.post("service/", mode="gone").status_code == 400
    assert requests.post(site.url + "orders/", {"number": "1"}, timeout=10).status_code == 403


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_it_leaves_no_process_behind(tmp_path: Path, signum: int) -> None:
    mark = new_mark()
    with started(mark, tmp_path) as process:
        Site(process)
        assert len(left_over(mark)) > 10
        assert list(tmp_path.glob("*/site.sqlite3"))
        process.popen.send_signal(signum)
        process.popen.wait(30)
        eventually(lambda: left_over(mark) == [])
    if signum == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []
