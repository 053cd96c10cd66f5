"""``resilience/metrics/``: who may read it, and that a site of several processes is one target."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.django.operators.browser import Browser
from tests.django.operators.conftest import Site
from tests.servers import Process, eventually, free_port

METRICS = "/resilience/metrics/"
TOKEN = "for Prometheus alone"


def reader(url: str, token: str = TOKEN) -> Browser:
    prometheus = Browser(url)
    prometheus.headers["Authorization"] = f"Bearer {token}"
    return prometheus


def read(prometheus: Browser, name: str, **labels: str) -> float:
    """The value of a metric."""
    page = prometheus.get(METRICS)
    assert page.status == 200, page.text
    samples = [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def test_it_is_for_who_has_the_token_or_may_see_the_dashboard(server: str, control: Browser, site: Site) -> None:
    assert read(control, "resilience_store_up") == 1
    assert Browser(server).get(METRICS).status == 401
    assert Browser(server).log_in("nothing").get(METRICS).status == 401
    for token in ("", "None", TOKEN):  # without the setting no token is right
        assert reader(server, token).get(METRICS).status == 401
    assert control.ask(METRICS, "OPTIONS").status == 405
    with site.serving(RATELIMIT_METRICS_TOKEN=TOKEN, SITE_LOGIN="1") as browser:
        assert read(reader(browser.site), "resilience_store_up") == 1
        assert reader(browser.site, TOKEN + "x").get(METRICS).status == 401
        assert browser.get(METRICS).status == 401
        assert browser.get("/resilience/health/").status == 200, "also where every view needs a login"


@contextmanager
def gunicorn(site: Site, directory: Path) -> Iterator[tuple[Process, Browser]]:
    """The project in two processes, forked after it was loaded."""
    address = f"127.0.0.1:{free_port()}"
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "RATELIMIT_METRICS_TOKEN": TOKEN, **site.environ}
    options = ["--preload", "--workers", "2", "--bind", address, "--no-control-socket"]
    with Process.python("-m", "gunicorn", *options, "tests.django.operators.site.wsgi", environ=environ) as master:
        master.wait_for("Booting worker", times=2)
        yield master, reader(f"http://{address}")


def test_what_all_processes_of_a_site_counted_is_told_by_each(project: Path, valkey_url: str, tmp_path: Path) -> None:
    with gunicorn(Site(project, valkey_url), tmp_path) as (master, browser):

        def calls(outcome: str) -> float:
            return read(browser, "resilience_breaker_calls_total", breaker="payments", outcome=outcome)

        paid = sum(browser.get("/pay/well/").text == "paid" for _ in range(30))
        eventually(lambda: calls("success") == paid == 30)
        os.kill(master.popen.pid, signal.SIGHUP)  # others take over
        master.wait_for("Worker exiting", times=2)
        master.wait_for("Booting worker", times=4)
        paid += sum(browser.get("/pay/well/").text == "paid" for _ in range(30))
        failed = sum(browser.get("/pay/badly/").status == 502 for _ in range(10))
        eventually(lambda: calls("success") == paid == 60)
        eventually(lambda: calls("failure") == failed)
        assert 3 <= failed < 10
        assert calls("not_permitted") == 10 - failed
        assert read(browser, "resilience_breaker_transitions_total", breaker="payments", to="open") == 1
        assert read(browser, "resilience_breaker_state", breaker="payments", state="open") == 1
        assert read(browser, "resilience_store_seconds_count") > 0
        written = {file.name.split("_")[-1] for file in tmp_path.glob("counter_*.db")}
        assert len(written) >= 3, "more than one process had something to tell"
