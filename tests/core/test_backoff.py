from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formatdate
from typing import Any, get_args
from urllib.error import HTTPError

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core import Backoff, ConfigurationError, RateLimitExceeded, parse_retry_after
from ratelimit_core.backoff import Jitter

JITTERS = get_args(Jitter)
times = st.floats(0, 1e6, allow_nan=False)
backoffs = st.builds(
    lambda base, more, factor, jitter: Backoff(base, factor, base + more, jitter),
    times,
    times,
    st.floats(1, 100),
    st.sampled_from(JITTERS),
)


def draws(backoff: Backoff, attempt: int, **options: Any) -> list[float]:
    rng = random.Random(7)
    return [backoff.delay(attempt, rng=rng, **options) for _ in range(2000)]


@pytest.mark.parametrize(("jitter", "least", "most"), [("full", 0, 80), ("equal", 40, 80), ("none", 80, 80)])
def test_the_range_of_each_jitter_is_used_from_end_to_end(jitter: Jitter, least: float, most: float) -> None:
    waits = draws(Backoff(base=10, factor=2, max=1000, jitter=jitter), attempt=3)
    assert least <= min(waits) <= least + (most - least) * 0.01
    assert most - (most - least) * 0.01 <= max(waits) <= most


@given(backoffs, st.integers(-5, 10**6), st.randoms(use_true_random=False))
def test_no_computed_wait_is_negative_or_beyond_max(backoff: Backoff, attempt: int, rng: random.Random) -> None:
    assert 0 <= backoff.delay(attempt, rng=rng) <= backoff.max


@given(backoffs, st.integers(0, 1000), st.floats(0, 1e9))
def test_the_floor_holds_even_beyond_max(backoff: Backoff, attempt: int, floor: float) -> None:
    wait = backoff.delay(attempt, floor=floor)
    assert wait >= floor
    assert wait <= max(floor, backoff.max)


@given(backoffs, st.integers(0, 60))
def test_without_jitter_it_never_shrinks(backoff: Backoff, attempt: int) -> None:
    steady = Backoff(backoff.base, backoff.factor, backoff.max, "none")
    assert steady.delay(attempt) <= steady.delay(attempt + 1)


@pytest.mark.parametrize("factor", [2, 2.0, 1.0000001, 1e308])
def test_a_late_attempt_waits_max_and_computes_no_giant_number(factor: float) -> None:
    backoff = Backoff(base=1, factor=factor, max=300, jitter="none")
    began = time.process_time()
    assert backoff.delay(10**6 if factor > 1.1 else 10**12) == 300
    assert backoff.delay(10**15) == 300
    assert time.process_time() - began < 1


def test_a_base_of_nothing_stays_nothing() -> None:
    backoff = Backoff(base=0, jitter="none")
    assert [backoff.delay(attempt) for attempt in (0, 1, 10**6)] == [0, 0, 0]


def test_a_seed_repeats_it_and_without_one_two_draws_differ() -> None:
    backoff = Backoff()
    assert draws(backoff, 5) == draws(backoff, 5)
    assert len({backoff.delay(8) for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "options",
    [
        *({"base": -1}, {"base": 10, "max": 5}, {"max": float("inf")}, {"max": float("nan")}, {"base": float("nan")}),
        *({"factor": 0.5}, {"factor": float("nan")}, {"factor": float("inf")}, {"jitter": "ful"}, {"jitter": None}),
        *({"base": "1"}, {"factor": None}, {"max": "300"}, {"base": True}),
    ],
)
def test_nonsense_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Backoff(**options)


# Retry-After


def refused(value: str | None, header: str = "Retry-After") -> requests.HTTPError:
    response = requests.Response()
    response.status_code = 503
    if value is not None:
        response.headers[header] = value
    return requests.HTTPError(response=response)


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120), (" 7 ", 7), ("0.5", 0.5), ("1", 1), ("2591999", 2_591_999)]
)
def test_seconds_in_the_header_of_a_response(header: str, seconds: float) -> None:
    assert parse_retry_after(refused(header)) == seconds
    assert parse_retry_after(refused(header, header="retry-after")) == seconds


@pytest.mark.parametrize(
    "zone",
    [UTC, timezone(timedelta(hours=5, minutes=30))],
)
def test_a_date_in_the_header(zone: timezone) -> None:
    in_a_minute = datetime.now(zone) + timedelta(seconds=60)
    wait = parse_retry_after(refused(format_datetime(in_a_minute)))
    assert wait is not None
    assert 40 < wait <= 60


@pytest.mark.parametrize("form", ["{} -0000", "{}"])
def test_a_date_without_a_zone_is_utc(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        text = form.format(formatdate(time.time() + 3600).removesuffix(" -0000"))
        wait = parse_retry_after(refused(text))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert wait is not None
    assert 3500 < wait <= 3600


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", " ", "soon", "-1", "0", "-0.0", "nan", "inf", "-inf", "1e400", "9" * 10_000, "2592001", "1,2"),
        *("Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"),
        *("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", "Wed, 99 Oct 2099 99:99:99 GMT", "Mon, 1 Jan 0000"),
        *("Wed, 21 Oct 2035 07:28:00 +9999999999", "\0", "é", "<b>1</b>"),
    ],
)
def test_what_is_no_sane_wait_is_none(header: str | None) -> None:
    assert parse_retry_after(refused(header)) is None


@given(st.text(max_size=40) | st.from_regex(r"\w{3}, \d+ (Jan|Dec) \d+ \d+:\d+:\d+ [-+ A-Z]*\d*"))
def test_no_header_makes_it_raise_or_wait_longer_than_a_month(header: str) -> None:
    wait = parse_retry_after(refused(header))
    assert wait is None or 0 < wait < 30 * 86400


class Asks(Exception):
    def __init__(self, retry_after: Any = None, headers: Any = None, response: Any = None) -> None:
        self.retry_after = retry_after
        self.headers = headers
        self.response = response


class Hostile(Mapping[str, Any]):
    """Headers that raise whatever is done with them."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


def test_an_error_may_say_it_itself() -> None:
    assert parse_retry_after(RateLimitExceeded("supplier", 2.5)) == 2.5
    assert parse_retry_after(Asks(retry_after=3)) == 3.0


@pytest.mark.parametrize("own", [0, -1, float("nan"), float("inf"), 10**400, 31 * 86400])
def test_what_an_error_says_itself_is_checked_too(own: float) -> None:
    assert parse_retry_after(Asks(retry_after=own)) is None


def test_headers_of_the_error_itself_as_in_urllib() -> None:
    import email.message

    headers = email.message.Message()
    headers["Retry-After"] = "9"
    error = HTTPError("http://upstream", 503, "busy", headers, None)
    assert parse_retry_after(error) == 9
    error.close()


@pytest.mark.parametrize(
    "error",
    [
        *(Exception(), Asks(headers=Hostile()), Asks(headers=["Retry-After"]), Asks(headers={"Retry-After": 5j})),
        *(Asks(headers={"Retry-After": b"5"}), Asks(response=Hostile()), requests.ConnectionError("no response")),
    ],
)
def test_an_error_that_says_nothing_or_lies_is_none(error: Exception) -> None:
    assert parse_retry_after(error) is None


def test_an_attribute_that_raises_is_none() -> None:
    class Trap(Exception):
        @property
        def response(self) -> Any:
            raise RuntimeError

        @property
        def retry_after(self) -> Any:
            raise ZeroDivisionError

    assert parse_retry_after(Trap()) is None
