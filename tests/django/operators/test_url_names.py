from __future__ import annotations

import pytest

from ratelimit_core._util.text import printable, span
from ratelimit_core.django.console.url_names import mode_of


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199.9, "2 h"),
        (86400, "24 h"),
        (9 * 86400, "9 d"),
    ],
)
def test_a_span_is_told_in_the_unit_that_suits_it(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("mode", "shadow", "words"),
    [
        ("automatic", False, "automatic"),
        ("automatic", None, "automatic"),
        ("automatic", True, "automatic, in shadow mode"),
        ("shadow", True, "shadow"),
        ("forced_open", False, "forced_open"),
    ],
)
def test_a_shadow_of_the_settings_is_told_with_the_mode(mode: str, shadow: bool | None, words: str) -> None:
    assert mode_of({"mode": mode, "shadow": shadow}) == words


def test_what_does_not_print_is_escaped() -> None:
    assert printable("plain ünïcödé 漢字") == "plain ünïcödé 漢字"
    assert printable("\x1b[31m\n\u202e\udcff\x00") == r"\x1b[31m\n\u202e\udcff\x00"
