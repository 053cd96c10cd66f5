"""The subset of Python that policies keep to, and the Lua and the SQL that come of it."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from django.db import connections
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa.lua51 import LuaRuntime

from ratelimit_core import codegen
from ratelimit_core.codegen.lua import LuaFunction, _adapter
from ratelimit_core.codegen.plpgsql import PlpgsqlFunction
from ratelimit_core.codegen.source import Module, Untranslatable
from ratelimit_core.codegen.subset import Function as Translated
from ratelimit_core.policies import Policy

Function = Callable[..., tuple[int, ...]]
LUA = LuaRuntime()


def in_both(source: str) -> tuple[Function, Function]:
    """Return the function ``f`` as Python, and as the Lua that is generated of it."""
    names: dict[str, Any] = {}
    exec(source, names)
    lua = "\n".join(LuaFunction.of(Module(source, "policy.py"), "f").lines())
    translated = LUA.execute(f"{lua}\nreturn function(...) return {{f(...)}} end")
    return names["f"], lambda *values: tuple(translated(*values).values())


def in_sql(alias: str, source: str, values: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return what the SQL that is generated of ``f`` returns for each of ``values``."""
    function = PlpgsqlFunction.of(Module(source, "policy.py"), "f")
    body = "\n".join(function.lines())
    parameters = ", ".join(f'"{name}" bigint' for name in function.parameters)
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f"CREATE OR REPLACE FUNCTION pg_temp.f({parameters})"
            f" RETURNS bigint[] LANGUAGE plpgsql AS $$ DECLARE _verdict bigint[]; _new bigint[]; BEGIN\n{body}"
            "\nRETURN _verdict; END $$"
        )
        columns = ", ".join(f"v{i}" for i in range(len(function.parameters)))
        rows = ", ".join(str(each) for each in values)
        cursor.execute(f"SELECT pg_temp.f({columns}) FROM (VALUES {rows}) AS given({columns})")
        found = [tuple(row[0]) for row in cursor.fetchall()]
        cursor.execute("DROP FUNCTION pg_temp.f")
    return found


TARGETS = [LuaFunction, PlpgsqlFunction]


def refusal(source: str, target: type[Translated] = LuaFunction) -> str:
    with pytest.raises(Untranslatable) as error:
        target.of(Module(dedent(source), "policy.py"), "f")
    return str(error.value)


numbers = st.integers(-(2**40), 2**40) | st.integers(-20, 20)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(numbers, numbers.filter(bool))
def test_division_and_remainder_agree_for_either_sign(a: int, b: int) -> None:
    python, lua = in_both("def f(a, b):\n    return a // b, a % b, -a // b, a % -b, (a // b) * b + a % b")
    assert lua(a, b) == python(a, b)


@pytest.mark.parametrize("dividend", [2**53 - 1, 2**53 - 2, 1 - 2**53, 2**52 + 1])
@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 1000, 1_000_003, 2**52 - 1, 2**53 - 1])
def test_division_is_exact_up_to_the_largest_numbers(dividend: int, divisor: int) -> None:
    python, lua = in_both("def f(a, b):\n    return a // b, max(a, -a) % b")
    assert lua(dividend, divisor) == python(dividend, divisor)


def test_division_agrees_in_sql(postgresql: str) -> None:
    source = "def f(a, b):\n    return a // b, a % b, -a // b, a % -b, (a // b) * b + a % b"
    numbers = [1, 2, 3, 7, 1000, 1_000_003, 2**52 - 1, 2**52 + 1, 2**53 - 2, 2**53 - 1]
    numbers += [-number for number in numbers]
    values = list(itertools.product([0, *numbers], numbers))
    python, _ = in_both(source)
    assert in_sql(postgresql, source, values) == [python(*each) for each in values]


PROGRAMS = {
    "precedence": "return a + b * c - (a - b) - c, -(a - b) * c, a - -b",
    "chained comparisons": """
        x = 0
        if a < b <= c: x = 1
        elif a == b != c > a: x = 2
        elif not (a >= b and b >= c or c < 0): x = 3
        return x, a
    """,
    "not binds looser than a comparison": """
        x = 0
        if not a < b: x += 1
        if not a == b and c > 0: x += 2
        if not (a < b or not b < c): x += 4
        return x, 0
    """,
    "tuples are assigned at once": """
        a, b, c = b, c, a
        x, y = a + b, a - b
        x, y = y, x
        return a, b, c, x, y
    """,
    "min and max": "return min(a, b), max(a, b, c), min(a, max(b, c), 3), max(-a, a)",
    "augmented assignment": """
        a += b * 2
        b -= a + 1
        c *= a - b
        a //= 7
        b %= 5
        return a, b, c
    """,
    "nested branches with constants": """
        if a > LOW:
            if b > HIGH:
                x = 1
            elif b > LOW:
                x = 2
            else:
                x = HIGH
        else:
            return LOW, c
        return x, a
    """,
}


every_program = pytest.mark.parametrize("body", PROGRAMS.values(), ids=PROGRAMS)


def program(body: str) -> str:
    lines = dedent(body).strip().splitlines()
    return "LOW = 0\nHIGH = 2\ndef f(a, b, /, *, c):\n" + "".join(f"    {line}\n" for line in lines)


@every_program
def test_both_languages_agree(body: str) -> None:
    python, lua = in_both(program(body))
    for a, b, c in itertools.product(range(-4, 5), repeat=3):
        assert lua(a, b, c) == python(a, b, c=c)


@every_program
def test_sql_agrees(body: str, postgresql: str) -> None:
    python, _ = in_both(program(body))
    values = list(itertools.product(range(-4, 5), repeat=3))
    assert in_sql(postgresql, program(body), values) == [python(a, b, c=c) for a, b, c in values]


def test_in_sql_a_name_may_be_a_word_of_its_own_and_constants_are_large_enough(postgresql: str) -> None:
    source = "MANY = 2_000_000\ndef f(limit, window):\n    end = MANY * 3000\n    return limit + end, window, max(1, 2)"
    assert in_sql(postgresql, source, [(1, 2)]) == [(6_000_000_001, 2, 2)]


BODIES = {
    "for i in range(a): a += 1": "the statement `for i in range(a):`",
    "while a > 0: a -= 1": "the statement `while a > 0:`",
    "try: a = 1\n    finally: a = 2": "the statement `try:`",
    "with a: pass": "the statement `with a:`",
    "match a:\n        case 1: a = 2": "the statement `match a:`",
    "pass": "the statement `pass`",
    "global a": "the statement `global a`",
    "del a": "the statement `del a`",
    "assert a > 0": "the statement `assert a > 0`",
    "raise ValueError": "the statement `raise ValueError`",
    "import time": "the statement `import time`",
    "print(a)": "the statement `print(a)`",
    "x: int = 1": "the statement `x: int = 1`",
    "x = y = 1": "the statement `x = y = 1`",
    "def g(): return 1, 2": "the statement `def g():`",
    "x = 1.5": "the expression `1.5`",
    "x = a / b": "the expression `a / b`",
    "x = a ** 2": "the expression `a ** 2`",
    "x = a | b": "the expression `a | b`",
    "x = a << 1": "the expression `a << 1`",
    "x = ~a": "the expression `~a`",
    "x = +a": "the expression `+a`",
    "a **= 2": "the expression `a ** 2`",
    "x = 'text'": "the expression `'text'`",
    "x = None": "the expression `None`",
    "x = True": "the expression `True`",
    "x = FLAG": "'FLAG' is unknown here: assign it before",
    "x = 9007199254740992": "the expression `9007199254740992`",
    "x = HUGE": "'HUGE' is unknown here: assign it before",
    "x = a < b": "the expression `a < b`",
    "x = a and b": "the expression `a and b`",
    "x = not a": "the expression `not a`",
    "x = a if a > b else b": "the expression `a if a > b else b`",
    "x = (y := a)": "the expression `(y := a)`",
    "x = [a, b]": "the expression `[a, b]`",
    "x = a[0]": "the expression `a[0]`",
    "x = a.real": "the expression `a.real`",
    "x = abs(a)": "the expression `abs(a)`",
    "x = min(a)": "the expression `min(a)`",
    "x = min(a, b, default=1)": "the expression `min(a, b, default=1)`",
    "x = max(*a, b)": "the expression `*a`",
    "x = a.max(a, b)": "the expression `a.max(a, b)`",
    "x = min(a, b)(a)": "the expression `min(a, b)(a)`",
    "x = lambda: a": "the expression `lambda: a`",
    "x = unknown": "'unknown' is unknown here: assign it before",
    "x = f(a, b)": "'f' is called inside itself: write it without recursion",
    "x = f(a, b) + 1": "the expression `f(a, b)`",
    "if a: a = 1": "`a` is used as a condition: write a comparison",
    "if not a: a = 1": "`a` is used as a condition: write a comparison",
    "if a and b > 1: a = 1": "`a` is used as a condition: write a comparison",
    "if a + b: a = 1": "`a + b` is used as a condition: write a comparison",
    "if True: a = 1": "`True` is used as a condition: write a comparison",
    "if (x := a) > 1: a = 1": "the expression `(x := a)`",
    "if a in (1, 2): a = 1": "the expression `(1, 2)`",
    "if a is b: a = 1": "the comparison `a is b`",
    "if a not in b: a = 1": "the comparison `a not in b`",
    "a.x = 1": "assignment to `a.x`",
    "a[0] = 1": "assignment to `a[0]`",
    "x, *y = a, b": "assignment to `*y`",
    "x, (y, z) = a, (1, 2)": "the expression `(1, 2)`",
    "x, y = a": "`a` is assigned to 2 names: write a tuple of 2 values",
    "x, y = a, b, 1": "`(a, b, 1)` is assigned to 2 names: write a tuple of 2 values",
    "x, x = a, b": "assigns to one name twice: use two names",
    "ONE = 2": "the name 'ONE' belongs to a constant of the module",
    "ONE += 2": "the name 'ONE' belongs to a constant of the module",
    "if a > b: return a": "`return a` returns no tuple: write one",
    "if a > b: return": "`return` returns no tuple: write one",
    "end = 1": "the name 'end' is reserved in Lua: rename it",
    "local = 1": "the name 'local' is reserved in Lua: rename it",
    "repeat, x = 1, 2": "the name 'repeat' is reserved in Lua: rename it",
    "ARGV = 1": "the name 'ARGV' is reserved in Lua: rename it",
    "größe = 1": "the name 'größe' is not ASCII: rename it",
    "x += 1": "'x' is unknown here: assign it before",
    "x, y = 1, x": "'x' is unknown here: assign it before",
    "if a > b: x = 1\n    y = x": "'x' may be unassigned here: assign it in every branch before",
    "if a > b: x = 1\n    elif a < b: x = 2\n    b = x": "'x' may be unassigned here: assign it in every branch before",
}


REFUSED = [
    (*each, target)
    for each in BODIES.items()
    for target in TARGETS
    if target.language in each[1] or "reserved" not in each[1]
]


@pytest.mark.parametrize(("body", "what", "target"), REFUSED)
def test_what_is_outside_the_subset_is_refused_with_its_file_and_line(
    body: str, what: str, target: type[Translated]
) -> None:
    head = "ONE = 1\nFLAG = True\nHUGE = 2**60\n\ndef f(a, b):\n    "
    message = refusal(f"{head}{body}\n    return a, b\n", target)
    assert what in message
    lines = {body.count("\n") + 6, 6} if "\n" in body else {6}
    assert message.split(":")[0] == "policy.py"
    assert int(message.split(":")[1]) in lines
    assert re.fullmatch(r"[^:]+:\d+: .*: (assign|define|remove|rename|use|write) .+", message), "says what to write"


SIGNATURES = {
    "def f(a, b=1):": "a parameter of 'f' has a default or a star: write plain parameters",
    "def f(a, *, b=1):": "a parameter of 'f' has a default or a star: write plain parameters",
    "def f(a, *b):": "a parameter of 'f' has a default or a star: write plain parameters",
    "def f(a, **b):": "a parameter of 'f' has a default or a star: write plain parameters",
    "def f(a, until):": "the name 'until' is reserved in Lua: rename it",
    "def f(a, redis):": "the name 'redis' is reserved in Lua: rename it",
    "def f(a, b, ONE):": "the name 'ONE' belongs to a constant of the module",
    "@cache\ndef f(a, b):": "'f' has a decorator: remove it",
}


@pytest.mark.parametrize(("signature", "what"), SIGNATURES.items())
def test_a_signature_that_lua_has_not_is_refused(signature: str, what: str) -> None:
    message = refusal(f"ONE = 1\n{signature}\n    return a, a\n")
    assert what in message
    assert message.startswith("policy.py:")


@pytest.mark.parametrize("name", ["found", "_now", "x" * 64])
def test_names_that_sql_has_not_are_refused(name: str) -> None:
    for source in (f"def f(a, {name}):\n    return a, a", f"def f(a):\n    {name} = a\n    return a, a"):
        message = refusal(source, PlpgsqlFunction)
        assert message.startswith("policy.py:")
        assert f"the name {name!r} is reserved in SQL" in message
        assert message.endswith(": rename it")


ENDLESS = {
    "nothing but a docstring": '"""Decide."""',
    "no return": "a = 1",
    "a return on one branch": "if a > 1:\n        return a, a",
    "a return on all branches but one": "if a > 1:\n        return a, a\n    elif a > 0:\n        return a, a",
    "a return inside only": "if a > 1:\n        return a, a\n    else:\n        a = 2",
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_a_function_that_may_end_without_a_return_is_refused(body: str) -> None:
    assert refusal(f"def f(a):\n    {body}\n") == ("policy.py:1: 'f' may end without a return: let every branch return")


def test_a_return_that_is_not_last_is_refused() -> None:
    assert "policy.py:2: statements follow this return" in refusal(
        "def f(a):\n    return a, a\n    a = 1\n    return a, a"
    )


def test_a_function_that_is_not_there_or_awaits_is_refused() -> None:
    assert refusal("def g(a):\n    return a, a") == "policy.py: there is no function 'f'"
    assert refusal("async def f(a):\n    return a, a") == "policy.py: there is no function 'f'"


@pytest.mark.parametrize("name", ["expires", "allowed", "wait", "ends", "decided_x", "tonumber", "lasts"])
def test_a_parameter_may_not_be_named_as_what_stands_around_the_policy(name: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def f(x, {name}, /, op, now, own_end):\n    return 1, 0, 0, 0, 0, x, {name}, 0, 0, 0", names)
    with pytest.raises(Untranslatable, match=name):
        list(_adapter(Policy.of(names["f"])))


# --check

SUFFIXES = {"lua": "lua", "sql": "sql", "python": "py"}
every_kind = pytest.mark.parametrize("kind", SUFFIXES)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is checked in."""
    for kind in SUFFIXES:
        shutil.copytree(codegen.HOME / kind, tmp_path / kind)
    monkeypatch.setattr(codegen, "HOME", tmp_path)
    return tmp_path


def test_what_is_checked_in_is_what_is_generated() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ratelimit_core.codegen", "--check"],
        cwd=codegen.HOME.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@every_kind
def test_a_stale_file_is_noticed_left_alone_by_check_and_written_without(
    home: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = home / kind / f"sliding_window.{SUFFIXES[kind]}"
    right = file.read_text()
    stale = re.sub(r" \+ | - ", " * ", right, count=1)
    assert stale != right
    file.write_text(stale)
    assert codegen.main(["--check"]) == 1
    assert capsys.readouterr().out == f"{file.name}: out of date; run python -m ratelimit_core.codegen\n"
    assert file.read_text() == stale
    assert codegen.main([]) == 0
    assert capsys.readouterr().out == f"{file.name}: written\n"
    assert file.read_text() == right
    assert codegen.main(["--check"]) == 0


@every_kind
def test_a_missing_file_is_noticed_and_written(home: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    (home / kind / f"concurrency.{SUFFIXES[kind]}").unlink()
    assert codegen.main(["--check"]) == 1
    assert capsys.readouterr().out.startswith(f"concurrency.{SUFFIXES[kind]}: out of date")
    assert not (home / kind / f"concurrency.{SUFFIXES[kind]}").exists()
    assert codegen.main([]) == 0
    assert (home / kind / f"concurrency.{SUFFIXES[kind]}").exists()


@every_kind
def test_a_file_of_no_policy_is_noticed_and_never_deleted(
    home: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (home / kind / f"gone.{SUFFIXES[kind]}").write_text("")
    for arguments in (["--check"], []):
        assert codegen.main(arguments) == 1
        assert capsys.readouterr().out == f"gone.{SUFFIXES[kind]}: belongs to no policy; delete it\n"
    assert (home / kind / f"gone.{SUFFIXES[kind]}").exists()
