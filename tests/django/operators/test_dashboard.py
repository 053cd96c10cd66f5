"""The dashboard as a server sends it: who may see and do what, and that nothing is in it but what belongs there."""

from __future__ import annotations

import re
import time
from copy import copy
from urllib.request import urlopen

import pytest

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.django.console.url_names import address
from ratelimit_core.protocol.names import known_by
from tests.django.operators.browser import Browser
from tests.django.operators.conftest import Site
from tests.servers import eventually

PAGE = "/resilience/"


def page_of(name: str) -> str:
    return f"{PAGE}breakers/{address(name)}/"


@pytest.fixture
def control(server: str) -> Browser:
    return Browser(server).log_in("control")


def test_who_is_not_logged_in_is_asked_to_and_who_may_not_see_sees_nothing(site: Site, server: str) -> None:
    CircuitBreaker("secret", backend=site.backend()).call(len, "")
    for path in (PAGE, page_of("secret")):
        assert "/accounts/login/?next=" in Browser(server).get(path).url
        page = Browser(server).log_in("nothing").get(path)
        assert (page.status, "secret" in page.text) == (403, False)


def test_who_may_see_may_not_act(site: Site, server: str) -> None:
    breaker = CircuitBreaker("only seen", backend=site.backend())
    breaker.call(len, "")
    viewer = Browser(server).log_in("view")
    eventually(lambda: "only seen" in viewer.get(PAGE).words)  # the page is known for a second
    page = viewer.get(page_of("only seen"))
    assert "Force open" not in page.words
    token = viewer.get("/admin/password_change/").token
    forced = {"csrfmiddlewaretoken": token, "action": "force_open", "reason": "mischief"}
    assert viewer.ask(page_of("only seen"), "POST", forced).status == 403
    assert breaker.state == "closed"


def test_nothing_happens_without_the_token_or_a_reason(site: Site, control: Browser) -> None:
    breaker = CircuitBreaker("guarded", backend=site.backend())
    breaker.call(len, "")
    assert control.ask(page_of("guarded"), "POST", {"action": "force_open", "reason": "mischief"}).status == 403
    assert "This field is required" in control.submit(page_of("guarded"), action="force_open").words
    assert "Select a valid choice" in control.submit(page_of("guarded"), action="explode", reason="why").words
    assert (breaker.state, breaker.history()) == ("closed", [])


def test_who_may_act_says_why_and_all_see_it(site: Site, control: Browser) -> None:
    breaker = CircuitBreaker("payments:eu/1 ☃", backend=site.backend())
    breaker.call(len, "")
    path = page_of(breaker.name)
    page = control.submit(path, action="force_open", reason="supplier <down>", minutes=5)
    assert (page.status, page.url.endswith(path)) == (200, True)
    assert "forced open by control: supplier &lt;down&gt;" in page.words
    (entry,) = breaker.history()
    assert (entry["event"], entry["author"], entry["ttl"]) == ("forced_open", "control", 300)
    control.submit(path, action="reset", reason="it is up")
    assert breaker.get_status()["state"] == "closed"
    assert "reset control it is up" in control.get(PAGE).words


@pytest.mark.parametrize(
    "tenant", ["", "é" * 300, str(known_by("é" * 300))], ids=["nameless", "long", "as it is stored"]
)
def test_whatever_a_client_is_called_the_page_leads_to_its_breaker(site: Site, control: Browser, tenant: str) -> None:
    breaker = CircuitBreaker("{tenant}", backend=site.backend()).bind(tenant=tenant)
    breaker.call(len, "")
    name = known_by(breaker.name)
    eventually(lambda: page_of(name) in control.get(PAGE).text)  # known for a second to all who look
    page = control.get(page_of(name))
    assert (page.status, "closed Since" in page.words) == (200, True)
    if tenant:
        assert control.submit(page_of(name), action="force_open", reason="too much").status == 200
        assert breaker.state == "open"


def test_a_page_says_what_is_down_who_waits_and_what_is_used(site: Site, control: Browser) -> None:
    breaker = CircuitBreaker("mail", failure_threshold=1, recovery_timeout=300, backend=site.backend())
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    turns = Limiter("1/s", key="release:mail", algorithm="leaky_bucket", backend=site.backend())
    until_probe = breaker.get_status()["next_attempt_time"] - time.time()  # turns begin there
    for _ in range(7):
        turns.reserve(1000, not_before=until_probe)
    Limiter("4/m", key="supplier", backend=site.backend()).hit(3)
    eventually(lambda: "mail open" in control.get(f"{PAGE}?q=mail").words)  # known for a second to all who look
    words = control.get(f"{PAGE}?q=mail").words
    assert re.search(r"mail open Since .* Failures 1 .*Next probe in \d min Waiting 7 tasks", words), words
    assert "supplier 4/m 3 of 4" in control.get(f"{PAGE}?q=supplier").words
    assert "No breaker has “nowhere” in its name" in control.get(f"{PAGE}?q=nowhere").words


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(control: Browser) -> None:
    for path in (PAGE, page_of("anything")):
        with control._opener.open(control.site + path) as response:
            policy, text = response.headers["Content-Security-Policy"], response.read().decode()
            assert "no-store" in response.headers["Cache-Control"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert not re.search(r"<style|style=|\son\w+=|<script(?! src)|(?:src|href)=\"(?:https?:|//)", text)
        for asset in re.findall(r'(?:src|href)="(/resilience/assets/[^"]+)"', text):
            with urlopen(control.site + asset) as response:  # without a cookie
                assert "immutable" in response.headers["Cache-Control"]
                assert "@import" not in (body := response.read().decode())
                assert "http" not in body.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("path", ["assets/0123456789ab/dashboard.css", "assets/x/secrets.py", "breakers/~FF/"])
def test_what_is_not_there_is_not_found(control: Browser, path: str) -> None:
    assert control.get(PAGE + path).status == 404


def test_behind_a_proxy_all_that_a_page_leads_to_has_the_prefix(site: Site, control: Browser) -> None:
    CircuitBreaker("behind a proxy", backend=site.backend()).call(len, "")
    with site.serving(SITE_PREFIX="/ops") as browser:
        behind = copy(control)  # with the same cookies
        behind.site = browser.site
        for path in (PAGE, page_of("behind a proxy")):
            text = behind.get(path).text
            led = re.findall(r'(?:src|href|action)="([^"#?][^"]*)"', text)
            assert len(led) > 4
            assert [each for each in led if not each.startswith("/ops/resilience/")] == []


def test_without_a_store_the_page_says_so(site: Site) -> None:
    away = Site(site.directory, "redis://127.0.0.1:1/0")
    with away.serving() as browser:
        page = browser.log_in("control").get(PAGE)
        assert page.status == 200
        assert "The shared store is unavailable" in page.words
        acted = browser.submit(page_of("payments"), action="force_open", reason="why")
        assert "The store is unavailable, so the change may not have been made" in acted.words
