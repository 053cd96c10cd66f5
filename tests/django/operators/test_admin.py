from __future__ import annotations

import html
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ratelimit_core import CircuitBreaker, ConfigurationError
from ratelimit_core.circuit_breaker import circuit_breaker_registry
from ratelimit_core.django.console.url_names import address, name_at
from ratelimit_core.protocol.names import Hashed, known_by
from tests.django.operators.browser import Browser
from tests.django.operators.conftest import Site

LIST = "/admin/ratelimit_core/breaker/"


def page_of(name: str) -> str:
    return f"{LIST}{address(name)}/change/"


def log_of(project: Path, name: str) -> list[tuple[str, str, str]]:
    """Who, which and what, from Django's log of the admin."""
    with closing(sqlite3.connect(project / "site.sqlite3")) as database:
        rows = database.execute(
            "select username, object_repr, change_message from django_admin_log join auth_user "
            "on auth_user.id = user_id where object_id = ? order by django_admin_log.id",
            [address(name)],
        )
        return list(rows)


# Who may do what


def test_nobody_sees_anything_without_logging_in(server: str) -> None:
    for path in (LIST, page_of("payments")):
        assert "/admin/login/" in Browser(server).get(path).url


def test_without_permission_there_is_nothing(server: str) -> None:
    nobody = Browser(server).log_in("nothing")
    assert "Breakers" not in nobody.get("/admin/").words
    for path in (LIST, page_of("payments")):
        assert nobody.get(path).status == 403
    token = nobody.get("/admin/password_change/").token
    forced = {"csrfmiddlewaretoken": token, "action": "force_open", "reason": "mischief"}
    assert nobody.ask(page_of("payments"), "POST", forced).status == 403


def test_who_may_see_may_not_act(site: Site, server: str) -> None:
    breaker = CircuitBreaker("only seen", backend=site.backend())
    breaker.call(len, "")
    viewer = Browser(server).log_in("view")
    assert "only seen" in viewer.get(LIST).words
    page = viewer.get(page_of("only seen"))
    assert "State closed Mode automatic" in page.words
    assert "Force open" not in page.text
    token = viewer.get("/admin/password_change/").token
    forced = {"csrfmiddlewaretoken": token, "action": "force_open", "reason": "mischief"}
    assert viewer.ask(page_of("only seen"), "POST", forced).status == 403
    assert breaker.state == "closed"


def test_nothing_happens_by_get_or_without_the_token(site: Site, control: Browser) -> None:
    breaker = CircuitBreaker("guarded", backend=site.backend())
    control.get(page_of("guarded") + "?action=force_open&reason=mischief")
    assert control.ask(page_of("guarded"), "POST", {"action": "force_open", "reason": "mischief"}).status == 403
    assert (breaker.state, breaker.history()) == ("closed", [])


# What can be done


@pytest.mark.parametrize(
    ("action", "minutes", "mode", "state"),
    [
        ("force_open", "", "forced_open", "open"),
        ("force_open", "15", "forced_open", "open"),
        ("force_closed", "15", "forced_closed", "closed"),
        ("disable", "", "disabled", "closed"),
        ("shadow", "600", "shadow", "open"),
        ("clear_override", "", "automatic", "open"),
        ("reset", "", "automatic", "closed"),
    ],
)
def test_each_button_does_what_it_says(
    site: Site, project: Path, control: Browser, action: str, minutes: str, mode: str, state: str
) -> None:
    name = f"{action} {minutes}"
    breaker = CircuitBreaker(name, backend=site.backend(), failure_threshold=1)
    breaker.acquire().failure()
    page = control.submit(page_of(name), action=action, reason="because <i>", minutes=minutes)
    assert (page.status, page.url.endswith(page_of(name))) == (200, True)
    status = breaker.get_status()
    assert (status["mode"], status["state"], status["mode_until"] is not None) == (mode, state, bool(minutes))
    newest = breaker.history()[0]
    assert (newest["author"], newest["reason"]) == ("control", "because <i>")
    assert newest["ttl"] == (int(minutes) * 60 if minutes else None)
    assert "because &lt;i&gt;" in page.text
    assert "because <i>" not in page.text
    [(author, shown, message)] = log_of(project, name)
    assert (author, shown) == ("control", name)
    assert message.endswith("because <i>")
    assert f'href="{page_of(name)}"' in control.get("/admin/").text, "the log leads to it"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"action": "force_open", "reason": ""}, "This field is required."),
        ({"action": "force_open", "reason": "   "}, "This field is required."),
        ({"action": "force_open", "reason": "x" * 501}, "at most 500 characters"),
        ({"action": "force_open", "reason": "x", "minutes": "0"}, "greater than or equal to 1"),
        ({"action": "force_open", "reason": "x", "minutes": "soon"}, "Enter a whole number"),
        ({"action": "force_open", "reason": "x", "minutes": "9999999"}, "less than or equal to 576000"),
        ({"action": "reset", "reason": "x", "minutes": "5"}, "takes effect at once and has no end"),
        ({"action": "explode", "reason": "x"}, "not one of the available choices"),
        ({"reason": "x"}, "This field is required."),
    ],
)
def test_a_wrong_form_says_what_is_wrong_and_does_nothing(
    site: Site, control: Browser, form: dict[str, object], error: str
) -> None:
    page = control.submit(page_of("wrong form"), **form)
    assert page.status == 200
    assert error in page.words
    assert CircuitBreaker("wrong form", backend=site.backend()).history() == []


# What is seen


def test_the_list_shows_the_fleet_open_ones_first(site: Site, control: Browser) -> None:
    backend = site.backend()
    CircuitBreaker("aaa quiet", backend=backend).call(len, "")
    CircuitBreaker("zzz broken", backend=backend, failure_threshold=1).acquire().failure()
    CircuitBreaker("mmm forced", backend=backend).force_open("anna", "OPS-17", 3600)
    words = control.get(LIST).words
    assert re.search(r"zzz broken open automatic 1 \d+ s ago in \d+ s", words)
    assert "mmm forced open forced open 0 in 60 min anna OPS-17" in words
    CircuitBreaker("yyy shadow", backend=backend).shadow("anna", "OPS-18")
    words = control.get(LIST).words
    places = [words.index(name) for name in ("mmm forced", "zzz broken", "yyy shadow closed", "aaa quiet closed")]
    assert places == sorted(places)


def test_a_breaker_among_many_is_found_by_its_name(site: Site, control: Browser) -> None:
    backend = site.backend()
    for number in range(210):
        CircuitBreaker(f"tenant:{number:03}", backend=backend).call(len, "")
    words = control.get(LIST).words
    assert "the first 200 are shown" in words
    words = control.get(LIST + "?q=nant%3A17").words
    assert "tenant:170" in words
    assert "tenant:169" not in words
    assert ", 10 found" in words
    page = control.get(LIST + "?q=%22%3E%3Cscript%3Ealert(1)")
    assert "No breaker has “" in page.words
    assert "<script>alert" not in page.text


def test_the_page_shows_the_whole_story(site: Site, control: Browser) -> None:
    breaker = CircuitBreaker("story", backend=site.backend(), failure_threshold=2, recovery_timeout=300)
    for _ in range(2):
        breaker.acquire().failure()
    breaker.shadow("bob", "trying it out", 7300)
    words = control.get(page_of("story")).words
    assert "State open Mode shadow Mode ends in 2 h By bob Reason trying it out" in words
    assert re.search(r"Consecutive failures 2 Last failure \d+ s ago", words)
    assert re.search(r"\d\d:\d\d:\d\d \w+ shadow 2 h bob trying it out .* opened 5 min 2", words)


def test_what_is_in_the_shadow_is_shown_as_that(site: Site, control: Browser) -> None:
    breaker = CircuitBreaker("quotes", backend=site.backend(), failure_threshold=1, recovery_timeout=300, shadow=True)
    breaker.acquire().failure()
    words = control.get(page_of("quotes")).words
    assert "State open Mode automatic, in shadow mode Consecutive" in words
    assert " opened in shadow mode 5 min 1" in words
    assert "quotes open automatic, in shadow mode 1 of 5" in control.get(LIST).words


@pytest.mark.parametrize(
    "name",
    [
        "a/b?c=d#e&f=g+h i%20",
        "..",
        "change",
        "<script>alert(1)</script>",
        "\"quoted\" 'names' \\ and `ticks`",
        "Ünïcödé ✓ 漢字",
        "{{ settings.SECRET_KEY }}{% now 'Y' %}",
        "null\x00 escape\x1b[31m line\nbreak \u202eright to left",
        "~41 ~2E_5F",
        "x" * 199,
    ],
)
def test_a_name_may_hold_anything(site: Site, control: Browser, name: str) -> None:
    breaker = CircuitBreaker(name, backend=site.backend())
    breaker.call(len, "")
    found = f"{LIST}?{urlencode({'q': name})}"
    assert page_of(name) in control.get(found).text
    page = control.submit(page_of(name), action="force_open", reason="a drill")
    assert page.status == 200
    assert breaker.state == "open"
    for text in (page.text, control.get(found).text):
        assert "<script>alert" not in text
        assert "\x00" not in text
        assert "\x1b" not in text
        assert "for tests only" not in text
    shown = html.unescape(re.findall(r"<h1>(.*?)</h1>", page.text)[-1])
    assert shown == name if name.isprintable() else shown.isprintable()


LEFT = known_by("é*" * 500)


@pytest.mark.parametrize("name", ["a", "~", "~~", "", "\udcff lone surrogate", "漢字", "a.b_c~d", LEFT, str(LEFT)])
def test_addresses_hold_letters_and_lead_back(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9~-]+", address(name))
    assert name_at(address(name)) == name


@pytest.mark.parametrize("stored", ["", "a", "a}:leases", f"{LEFT}a", f"{LEFT[:50]}:{LEFT[51:]}"])
def test_nobody_makes_up_what_is_left_of_a_name(stored: str) -> None:
    with pytest.raises(ValueError, match="is not the shortened form of a name"):
        name_at(address(Hashed(stored)))


def test_an_address_of_no_name_is_not_found(control: Browser) -> None:
    assert control.get(f"{LIST}~FF/change/").status == 404
    assert control.get(f"{LIST}never~20used/change/").status == 200


def test_to_look_at_a_breaker_does_not_define_it() -> None:
    assert circuit_breaker_registry.refer("looked at").get_status()["state"] == "closed"
    assert circuit_breaker_registry.get("looked at") is None
    defined = CircuitBreaker("looked at", failure_threshold=3)
    assert circuit_breaker_registry.refer("looked at") is defined
    with pytest.raises(ConfigurationError, match="defined twice"):
        CircuitBreaker("looked at", failure_threshold=4)


def test_the_store_away_is_said_and_is_no_error(site: Site) -> None:
    with replace(site, store="redis://127.0.0.1:1/0").serving() as browser:
        browser.log_in("control")
        for path in (LIST, page_of("payments")):
            for _ in range(8):  # the breaker around the store opens meanwhile
                page = browser.get(path)
                assert page.status == 200
                assert "The store is unavailable" in page.words
        page = browser.submit(page_of("payments"), action="force_open", reason="a drill")
        assert page.status == 200
        assert "The store is unavailable, so the change" in page.words
        assert browser.get("/admin/").status == 200
