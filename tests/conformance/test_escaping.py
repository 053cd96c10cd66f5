"""Names inside keys: nothing unsafe, nothing endless, and no two the same."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from ratelimit_core.protocol.names import MAX_KEY, escape, unescape

from .profiles import examples

text = st.text(st.characters(codec=None))
long = st.builds(lambda part, times: part * times, st.text(st.characters(codec=None), min_size=1), st.integers(1, 300))


@examples(300)
@given(text | long)
@example("\x00 {}%\x7f\t\n")
@example("\ud800\udfff")
@example("é" * 1_000_000)
def test_what_is_escaped_is_safe_and_bounded(name: str) -> None:
    escaped = escape(name)
    assert len(escaped) <= MAX_KEY
    assert escaped.isascii()
    assert escaped.isprintable()
    assert not set(escaped) & set("{} :")


@examples(300)
@given(text)
@example("%41")
@example("%%")
@example("\udcc3\udca9")
def test_what_is_not_hashed_comes_back(name: str) -> None:
    if "%%" not in escape(name):
        assert unescape(escape(name)) == name


@examples(300)
@given(text | long, text | long)
@example("é", "\udcc3\udca9")
@example("A", "%41")
@example("a" * 200, "a" * 201)
@example("x" * 300, escape("x" * 300))
def test_no_two_names_are_escaped_alike(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@examples(100)
@given(long)
def test_a_hashed_name_is_listed_as_it_is_stored(name: str) -> None:
    escaped = escape(name)
    if "%%" in escaped:
        assert str(unescape(escaped)) == escaped
        assert unescape(escaped) != escaped, "or else who may write that would name it too"
