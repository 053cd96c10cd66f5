from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core import ConfigurationError, Rate
from ratelimit_core._util.clock import LONGEST
from ratelimit_core.rates import parse_rates

EXAMPLE = r"write for example '100/h'"

counts = st.integers(1, 10**9)
spans = st.integers(1, LONGEST // 1000).map(lambda milliseconds: milliseconds / 1000)
rates = st.builds(Rate, counts, spans | st.sampled_from([1.0, 60.0, 3600.0, 86400.0, 172_800.0]))


def short(value: object) -> str:
    return f"{value!a:.30}"


@given(rates)
def test_what_is_written_is_read_back(rate: Rate) -> None:
    assert Rate.parse(str(rate)) == rate


@given(rates, rates)
def test_two_rates_are_written_alike_only_if_they_are_the_same(one: Rate, other: Rate) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(rates)
def test_a_period_is_exact_and_the_spacing_no_longer_than_it_has_to_be(rate: Rate) -> None:
    assert rate.period_us == round(rate.period * 1000) * 1000
    assert rate.spacing_us * rate.limit >= rate.period_us > (rate.spacing_us - 1) * rate.limit


@pytest.mark.parametrize(
    ("text", "limit", "period"),
    [
        ("100/h", 100, 3600),
        ("10/30s", 10, 30),
        ("5/minute", 5, 60),
        ("5/minutes", 5, 60),
        (" 7 / 2 Days ", 7, 172_800),
        ("1/500ms", 1, 0.5),
        ("3/1001ms", 3, 1.001),
        ("007/s", 7, 1),
    ],
)
def test_rates_as_people_write_them(text: str, limit: int, period: float) -> None:
    assert Rate.parse(text) == Rate(limit, period)


@pytest.mark.parametrize(
    "nonsense",
    [
        *("", " ", "10", "/s", "10/", "10/5", "s/10", "10/w", "10/mo", "10 per s", "ten/s", "10/s;", "10/s;5/m"),
        *("0/s", "0/0s", "1/0s", "-1/m", "+1/m", "1/-1m", "1.5/s", "1/1.5s", "1e3/s", "0x10/s", "1_000/s", "10/s\0"),
        *("10/401d", "10000000000/s", "9" * 400 + "/s", "8" * 5000 + "/s", "1/" + "9" * 5000 + "d"),
        *("\u0661/s", "10/\uff11s", "\xb2/s", "10/\u017f"),  # other digits, and an s that casefold() makes ours
        *(None, 10, 10.0, b"10/s", ["10/s"], object),
    ],
    ids=short,
)
def test_nonsense_is_refused_with_what_to_write_instead(nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match=EXAMPLE):
        Rate.parse(nonsense)


@given(st.text(alphabet="0123456789/smhd;. -+_eE\u0663", max_size=12) | st.text(max_size=8))
def test_any_text_is_a_rate_or_a_configuration_error(text: str) -> None:
    with suppress(ConfigurationError):
        rate = Rate.parse(text)
        assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    ("limit", "period"),
    [
        *((0, 1), (-1, 1), (10**9 + 1, 1), (1, 0), (1, -1), (1, 0.0009), (1, 0.0015), (1, 401 * 86400)),
        *((1, float("nan")), (1, float("inf")), (True, 1), (1.5, 1), ("10", 1), (1, "1"), (1, True), (None, None)),
    ],
)
def test_a_rate_that_could_not_be_kept_is_refused(limit: Any, period: Any) -> None:
    with pytest.raises(ConfigurationError, match="in whole milliseconds"):
        Rate(limit, period)


def test_several_rates_at_once() -> None:
    both = (Rate(10, 1), Rate(1000, 3600))
    assert parse_rates("10/s;1000/h") == parse_rates(" 10/s ; 1000/h ") == both
    assert parse_rates(["10/s", Rate(1000, 3600)]) == parse_rates(iter(["10/s", "1000/h"])) == both
    assert parse_rates(Rate(10, 1)) == (Rate(10, 1),)


def test_a_rate_that_is_named_twice_counts_once() -> None:
    assert parse_rates("10/s;10/1000ms;10/second") == (Rate(10, 1),)


@pytest.mark.parametrize(
    "nonsense", ["", ";", "10/s;", ";10/s", "10/s;;1/m", "10/s,1/m", [], (), None, 10, b"10/s", [None]], ids=short
)
def test_nonsense_among_several_rates_is_refused(nonsense: Any) -> None:
    with pytest.raises(ConfigurationError, match=EXAMPLE):
        parse_rates(nonsense)
