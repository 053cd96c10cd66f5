"""The dashboard in a real browser, as somebody sees and uses it while the fleet changes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.django.console.url_names import address
from tests.django.operators.conftest import Site
from tests.servers import free_port, missing

PAGE = "/resilience/"
WIDTH = 360
PHONE: dict[str, Any] = {"viewport": {"width": WIDTH, "height": 740}, "has_touch": True, "is_mobile": True}
SWITCH = "Switch this breaker in the whole fleet"

expect.set_options(timeout=15_000)  # a refresh comes within three seconds; machines may be slow


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        missing("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


Person = Callable[..., Page]


@pytest.fixture(scope="module")
def sessions() -> dict[str, Any]:
    """The cookies of who has logged in."""
    return {}


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of: errors of the page, and what the content security policy has kept out."""
    return []


@pytest.fixture
def person(chromium: Browser, server: str, sessions: dict[str, Any], complaints: list[str]) -> Iterator[Person]:
    """Somebody at a browser of their own, logged in, on the dashboard. At the end nothing may have gone wrong there."""
    contexts = []

    def arrive(name: str = "control", site: str = server, **options: Any) -> Page:
        context = chromium.new_context(base_url=site, storage_state=sessions.get(name), **options)
        contexts.append(context)
        page = context.new_page()
        page.goto(PAGE)
        if name not in sessions:
            log_in(page, name)
            sessions[name] = context.storage_state()
            page.goto(PAGE)

        def complain(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                complaints.append(message.text)

        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield arrive
    for context in contexts:
        context.close()
    assert complaints == []


def log_in(page: Page, name: str) -> None:
    page.goto("/admin/login/?next=/admin/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(name)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/admin/")


def refreshed(page: Page) -> None:
    """Have the page ask at once, as one does that comes to the front, and wait until it shows the answer."""
    page.evaluate(
        """() => new Promise((seen) => {
            new MutationObserver(seen).observe(document.getElementById("main"), { attributeFilter: ["data-now"] });
            document.dispatchEvent(new Event("visibilitychange"));
        }).then(() => {})"""
    )


def page_of(breaker: CircuitBreaker) -> str:
    return f"{PAGE}breakers/{address(breaker.name)}/"


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)


@pytest.fixture
def breaker(site: Site, request: pytest.FixtureRequest) -> Iterator[CircuitBreaker]:
    """One of the fleet, closed, named after the test."""
    breaker = CircuitBreaker(request.node.name, failure_threshold=1, recovery_timeout=1, backend=site.backend())
    breaker.call(len, "")
    yield breaker
    breaker.reset()


def test_what_happens_in_the_fleet_is_on_the_page_without_a_reload(person: Person, breaker: CircuitBreaker) -> None:
    page = person("view")
    page.evaluate("window.kept = true")
    card = page.get_by_role("article", name=breaker.name)
    expect(card.locator(".state")).to_have_text("closed")
    fail(breaker)
    expect(card.locator(".state")).to_have_text("open")
    expect(card.get_by_text("next call")).to_be_visible()  # it is due, and nobody has called yet
    with breaker:  # a probe is under way
        expect(card.locator(".state")).to_have_text("half-open")
        expect(page.get_by_role("status")).to_contain_text("probing")
    expect(card.locator(".state")).to_have_text("closed")
    expect(page.locator("#told")).to_contain_text(breaker.name)
    assert page.evaluate("window.kept") is True


def test_who_may_not_act_sees_no_switch_and_can_use_none(person: Person, breaker: CircuitBreaker) -> None:
    page = person("view")
    page.goto(page_of(breaker))
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    assert page.get_by_role("heading", name=SWITCH).count() == 0
    assert page.locator("main form, main button").count() == 0
    mine = person("control")  # whose form is sent with the cookies of the other
    mine.goto(page_of(breaker))
    token = mine.locator("[name=csrfmiddlewaretoken]").get_attribute("value")
    form: dict[str, str | float | bool] = {
        "csrfmiddlewaretoken": token or "",
        "action": "force_open",
        "reason": "mischief",
    }
    assert page.request.post(page_of(breaker), form=form).status == 403
    assert breaker.state == "closed"


def test_the_keyboard_alone_reaches_and_uses_the_switch(person: Person, breaker: CircuitBreaker) -> None:
    page = person("control")

    def go_on(until: str) -> None:
        for _ in range(100):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent || document.activeElement.name").strip() == until:
                return
        raise AssertionError(f"no Tab leads to {until!r}")

    expect(page.get_by_role("article", name=breaker.name)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the breakers")).to_be_focused()
    go_on(f"Switch and history of {breaker.name}")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{page_of(breaker)}")
    go_on("reason")
    page.keyboard.type("supplier is down")
    page.keyboard.press("Enter")  # which presses no button
    go_on("Force openreject every call")
    page.keyboard.press("Enter")
    expect(page.locator("#headline")).to_have_text(f"{breaker.name} is open: forced open by control: supplier is down")
    assert [(each["event"], each["author"]) for each in breaker.history()] == [("forced_open", "control")]


def test_the_focus_and_what_is_scrolled_stay_across_refreshes(person: Person, breaker: CircuitBreaker) -> None:
    page = person("control", **PHONE)
    link = page.get_by_role("link", name=breaker.name).first
    link.focus()
    fail(breaker)  # so the card moves to the front
    expect(page.locator(".card").first).to_contain_text(breaker.name)
    expect(link).to_be_focused()
    told = page.locator("#told .wide")
    told.evaluate("each => each.scrollLeft = 100")
    breaker.force_closed("ada", "so that the table is another")
    expect(told).to_contain_text("so that the table is another")
    assert told.evaluate("each => each.scrollLeft") == 100


def test_what_is_being_typed_survives_whatever_the_page_then_learns(
    person: Person, site: Site, breaker: CircuitBreaker
) -> None:
    page = person("control")
    unused = CircuitBreaker("used only then", failure_threshold=1, backend=site.backend())
    page.goto(page_of(unused))
    expect(page.locator("main")).to_contain_text("The store has no record of it")
    reason = page.get_by_label("Reason")
    reason.press_sequentially("half a rea")
    fail(unused)
    expect(page.locator("#breaker .state")).to_have_text("open")
    expect(reason).to_be_focused()
    reason.press_sequentially("son")
    expect(reason).to_have_value("half a reason")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#headline")).to_have_text(f"{unused.name} is closed")


def test_an_announcement_is_made_when_something_has_changed_and_only_then(
    person: Person, breaker: CircuitBreaker
) -> None:
    page = person("view")
    for path in (PAGE, page_of(breaker)):
        page.goto(path)
        refreshed(page)  # what others did just before is on it now
        announced = page.locator("[role=status], [role=alert], [aria-live]")
        announced.evaluate_all(
            """all => {
                window.announced = [];
                const observer = new MutationObserver((changes) => window.announced.push(...changes));
                for (const each of all) {
                    observer.observe(each, { subtree: true, childList: true, characterData: true });
                    observer.observe(each.parentNode, { childList: true }); // it is taken out and put in
                }
            }"""
        )
        refreshed(page)
        assert page.evaluate("announced.length") == 0
        headline = page.get_by_role("status")
        before = headline.text_content() or ""
        breaker.force_open("ada", "they are moving")
        expect(headline).not_to_have_text(before)
        expect(headline).to_contain_text("open")
        assert page.evaluate("announced.length") > 0
        breaker.clear_override()
        expect(headline).to_have_text(before)  # or the next page may still show what it was


def test_a_page_whose_server_is_gone_says_since_when_it_is_stale(
    person: Person, site: Site, breaker: CircuitBreaker, complaints: list[str]
) -> None:
    port = free_port()
    with site.serving(port) as browser:
        page = person("control", site=browser.site)
        page.goto(page_of(breaker))
        page.get_by_label("Reason").fill("typed before")
        alert = page.get_by_role("alert")
        expect(alert).to_be_hidden()
        refreshed(page)
    expect(alert).to_be_visible()
    as_of = page.locator("#main").get_attribute("data-now")
    expect(alert).to_contain_text(f"could not be refreshed since {as_of}")
    with site.serving(port):
        expect(alert).to_be_hidden()
        fail(breaker)
        expect(page.locator("#breaker .state")).to_have_text(re.compile("open"))
        expect(page.get_by_label("Reason")).to_have_value("typed before")
    assert {"ERR_CONNECTION_REFUSED" in each for each in complaints} == {True}
    complaints.clear()


@pytest.fixture
def outage(site: Site, breaker: CircuitBreaker) -> Iterator[CircuitBreaker]:
    """What a page has to show on a bad day, with long names in it."""
    long = CircuitBreaker(f"{'supplier-' * 12}eu", failure_threshold=1, recovery_timeout=300, backend=site.backend())
    fail(long)
    breaker.force_open("ada", "they " + "really" * 20 + " are moving", 600)
    Limiter("4/m", key="partners:" * 9, backend=site.backend()).hit(3)
    turns = Limiter("1/s", key=f"release:{long.name}", algorithm="leaky_bucket", backend=site.backend())
    turns.reserve(1000, not_before=300)
    yield long
    long.reset()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_who_sees_or_hears_otherwise(
    person: Person, outage: CircuitBreaker, scheme: str
) -> None:
    page = person("control", color_scheme=scheme)
    for path in (PAGE, page_of(outage)):
        page.goto(path)
        found = Axe().run(page).response["violations"]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
    dark = "rgb(17, 20, 23)"
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == dark) is (scheme == "dark")


def test_a_phone_never_scrolls_sideways(person: Person, outage: CircuitBreaker) -> None:
    page = person("control", **PHONE)
    for path in (PAGE, page_of(outage)):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") == WIDTH
        small = page.locator("main button:visible, header button, main .more a, nav a").evaluate_all(
            "all => all.filter((each) => each.getBoundingClientRect().height < 24).map((each) => each.textContent)"
        )
        assert small == []  # each is large enough for a finger
