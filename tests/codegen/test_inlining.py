"""Helper functions of policies, which the code generator inlines."""

from __future__ import annotations

import ast
import itertools
import random
from textwrap import dedent, indent

import pytest

from ratelimit_core.codegen.lua import LuaFunction
from ratelimit_core.codegen.plpgsql import PlpgsqlFunction
from ratelimit_core.codegen.source import Module, Untranslatable

from .test_codegen import in_both, in_sql

VALUES = list(itertools.product(range(-2, 3), repeat=3))


def inlined(source: str) -> str:
    node = Module(dedent(source), "policy.py").function("f")
    return ast.unparse(ast.fix_missing_locations(node))


MODULES = {
    "a helper that changes its parameters": """
        def f(a, b, c):
            x = 1
            a, x = more(a, b + c)
            return a, b, x

        def more(count, by):
            count += by
            by -= 1
            return count, by
    """,
    "a parameter is a copy": """
        def f(a, b, c):
            x = double(a)
            return a, x

        def double(number):
            number *= 2
            return number
    """,
    "early returns": """
        def f(a, b, c):
            x, y = decide(a, b)
            return x, y, c

        def decide(a, b):
            if a < 0:
                return 0, b
            if a == 0:
                if b > 0:
                    return 1, 1
                b = 7
                return b, a
            elif b < 0:
                b -= 1
            else:
                return 2, b
            a += 1
            return a, b
    """,
    "the results cross": """
        def f(a, b, c):
            b, a = cross(a, b)
            c, b, a = turn(a, b, c)
            return a, b, c

        def cross(a, b):
            return a, b

        def turn(x, y, z):
            x, y = y, x
            return x, z, y
    """,
    "an argument reads a target": """
        def f(a, b, c):
            a, b = both(b + 1, a)
            a = later(a, b, a)
            return a, b, c

        def both(a, b):
            a += b
            b += a
            return a, b

        def later(b, a, c):
            b += 1
            a += c
            return a * b + c
    """,
    "a target is read after the helper has changed it": """
        def f(a, b, c):
            a = twice(a, a)
            b, c = swap(b, c, b)
            return a, b, c

        def twice(a, before):
            a += 5
            return a * 10 + before

        def swap(b, c, again):
            b = c
            c = again
            return b, c
    """,
    "helpers of helpers, called twice": """
        LOW = 1

        def f(a, b, c):
            x = outer(a, b)
            y = outer(b, c)
            return x, y

        def outer(a, b):
            x = inner(a)
            y = inner(b)
            return x * 3 + y

        def inner(a):
            x = a - LOW
            if x > 0:
                return x
            return -x
    """,
    "a branch of which nothing is left": """
        def f(a, b, c):
            a, b = keep(a, b, c)
            return a, b, c

        def keep(a, b, c):
            if c > 0:
                return a, b
            if c < 0:
                a = 4
                return a, b
            return 0, b
    """,
    "constants as arguments": """
        ONE = 1

        def f(a, b, c):
            x = clamp(a, ONE, -2)
            y = clamp(0, b, c)
            return x, y

        def clamp(number, low, high):
            number = max(low, min(number, high))
            if low > high:
                low, high = high, low
            return number + low * high
    """,
    "a call on one branch": """
        def f(a, b, c):
            x = 0
            if a > b:
                x, c = apart(a, b)
            elif a == b:
                x = a
            else:
                x, c = apart(b, a)
            return x, c

        def apart(a, b):
            distance = a - b
            return distance, -distance
    """,
}
every_module = pytest.mark.parametrize("source", [dedent(source) for source in MODULES.values()], ids=MODULES)


@every_module
def test_lua_decides_as_the_functions_do(source: str) -> None:
    python, lua = in_both(source)
    assert [lua(*each) for each in VALUES] == [python(*each) for each in VALUES]


@every_module
def test_sql_decides_as_the_functions_do(source: str, postgresql: str) -> None:
    python, _ = in_both(source)
    assert in_sql(postgresql, source, VALUES) == [python(*each) for each in VALUES]


class Programs:
    """Random modules of three helpers, each of which may call those before it, and ``f``, which calls all."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.helpers: list[tuple[str, int, int]] = []  # name, parameters, results

    def module(self) -> str:
        parts = []
        for number in range(3):
            name, takes, gives = f"h{number}", self.random.randint(1, 4), self.random.randint(1, 3)
            parts.append(self.function(name, "abcd"[:takes], gives))
            self.helpers.append((name, takes, gives))
        return "\n".join([*parts, self.function("f", "abc", 3)])

    def function(self, name: str, takes: str, gives: int) -> str:
        names = list(takes)
        return f"def {name}({', '.join(names)}):\n{indent(self.block(names, gives, 2), '    ')}"

    def block(self, names: list[str], gives: int, depth: int) -> str:
        """Statements that end with a return. ``names`` have values, and may get some."""
        lines = [self.statement(names) for _ in range(self.random.randint(0, 3))]
        if depth and self.random.random() < 0.6:
            then = indent(self.block(list(names), gives, depth - 1), "    ")
            lines.append(f"if {self.number(names)} < {self.number(names)}:\n{then}")
            lines += [self.statement(names) for _ in range(self.random.randint(0, 2))]
        values = ", ".join(self.number(names) for _ in range(gives))
        return "\n".join([*lines, f"return {values}"])

    def statement(self, names: list[str]) -> str:
        if self.helpers and self.random.random() < 0.5:
            name, takes, gives = self.random.choice(self.helpers)
            targets = self.random.sample("abcdxy", gives)
            arguments = ", ".join(self.number(names) for _ in range(takes))
            names += targets
            return f"{', '.join(targets)} = {name}({arguments})"
        target = self.random.choice("abcdxy")
        line = f"{target} = {self.number(names)}"
        names.append(target)
        return line

    def number(self, names: list[str]) -> str:
        one, other = self.random.choice(names), self.random.choice([*names, "1", "-2"])
        return self.random.choice([one, one, other, f"{one} + {other}", f"{one} - {other}", f"max({one}, {other})"])


def test_random_modules_are_decided_alike() -> None:
    early = 0
    for seed in range(120):
        source = Programs(seed).module()
        python, lua = in_both(source)
        values = VALUES[:: 1 + seed % 7]
        assert [lua(*each) for each in values] == [python(*each) for each in values], source
        early += source.count("    return")
    assert early > 240  # there are returns on branches


def test_random_modules_are_decided_alike_in_sql(postgresql: str) -> None:
    for seed in range(120, 140):
        source = Programs(seed).module()
        python, _ = in_both(source)
        assert in_sql(postgresql, source, VALUES[::3]) == [python(*each) for each in VALUES[::3]], source


def test_variables_are_not_copied_where_the_callers_own_will_do() -> None:
    source = """
        def f(count, limit, now):
            allowed, count = take(count, limit)
            return allowed, count

        def take(count, limit):
            if count >= limit:
                return 0, count
            count += 1
            return 1, count
    """
    assert inlined(source) == dedent(
        """\
        def f(count, limit, now):
            if count >= limit:
                allowed = 0
            else:
                count += 1
                allowed = 1
            return (allowed, count)"""
    )


def test_names_that_the_caller_has_are_numbered() -> None:
    source = """
        def f(a, rest):
            total = added(a + 1, rest)
            total = added(total + 1, total)
            return total, rest

        def added(a, b):
            rest = a * b
            return rest + a
    """
    assert inlined(source) == dedent(
        """\
        def f(a, rest):
            a_2 = a + 1
            rest_2 = a_2 * rest
            total = rest_2 + a_2
            a_3 = total + 1
            rest_3 = a_3 * total
            total = rest_3 + a_3
            return (total, rest)"""
    )


NO_EXPRESSION = (
    "can't be translated: write integers below 2**53, names, `+ - * // %`, `min` or `max`,"
    " and call a helper as in `a = helper(b)`"
)
NO_STATEMENT = "can't be translated: write an assignment to one target, an `if` or a `return`"

REFUSED = {
    "a helper that calls itself": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    a = g(a)\n    return a",
        "6: 'g' is called inside itself: write it without recursion",
    ),
    "helpers that call each other": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    a = h(a)\n    return a\n\n"
        "def h(a):\n    a = g(a)\n    return a",
        "10: 'g' is called inside itself: write it without recursion",
    ),
    "the policy itself": (
        "    a, b = f(a, b)\n    return a, b",
        "2: 'f' is called inside itself: write it without recursion",
    ),
    "a helper that may end without a return": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    if a > 1:\n        return a",
        "5: 'g' may end without a return: let every branch return",
    ),
    "a return that something follows": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    return a\n    a += 1\n    return a",
        "6: statements follow this return in its block: remove them",
    ),
    "a return in a part of a branch": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    if a > 1:\n        if a > 2:\n            return 1\n"
        "    a += 1\n    return a",
        "6: a branch of this `if` returns in some cases: let it return in all cases",
    ),
    "too few results": (
        "    x, y = g(a)\n    return x, y\n\ndef g(a):\n    return a",
        "6: `return a` does not fit the call: return as many values as the call assigns, 2",
    ),
    "too many results": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    return a, a",
        "6: `return (a, a)` does not fit the call: return as many values as the call assigns, 1",
    ),
    "no result": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    return",
        "6: `return` does not fit the call: return as many values as the call assigns, 1",
    ),
    "too few arguments": (
        "    x = g(a)\n    return x, b\n\ndef g(a, b):\n    return a",
        "2: the call `g(a)` does not fit 'g': pass 2 arguments by position",
    ),
    "an argument by name": (
        "    x = g(a=a)\n    return x, b\n\ndef g(a):\n    return a",
        "2: the call `g(a=a)` does not fit 'g': pass 1 arguments by position",
    ),
    "several arguments at once": (
        "    x = g(*a)\n    return x, b\n\ndef g(a):\n    return a",
        "2: the call `g(*a)` does not fit 'g': pass 1 arguments by position",
    ),
    "a parameter with a default": (
        "    x = g(a)\n    return x, b\n\ndef g(a=1):\n    return a",
        "5: the helper 'g' has a decorator or special parameters: write plain parameters only",
    ),
    "a decorator": (
        "    x = g(a)\n    return x, b\n\n@cache\ndef g(a):\n    return a",
        "6: the helper 'g' has a decorator or special parameters: write plain parameters only",
    ),
    "a call inside an expression": (
        "    x = g(a) + 1\n    return x, b\n\ndef g(a):\n    return a",
        f"2: the expression `g(a)` {NO_EXPRESSION}",
    ),
    "a call as an argument": (
        "    x = g(g(a))\n    return x, b\n\ndef g(a):\n    return a",
        f"2: the expression `g(a)` {NO_EXPRESSION}",
    ),
    "a call in a comparison": (
        "    if g(a) > 1:\n        a = 2\n    return a, b\n\ndef g(a):\n    return a",
        f"2: the expression `g(a)` {NO_EXPRESSION}",
    ),
    "a call that nothing is assigned from": (
        "    g(a)\n    return a, b\n\ndef g(a):\n    return a",
        f"2: the statement `g(a)` {NO_STATEMENT}",
    ),
    "a target twice": (
        "    x, x = g(a)\n    return x, b\n\ndef g(a):\n    return a, a",
        "2: `(x, x)` assigns to one name twice: use two names",
    ),
    "a target that is no name": (
        "    a.x = g(a)\n    return a, b\n\ndef g(a):\n    return a",
        "2: assignment to `a.x` can't be translated: assign to a name",
    ),
    "a variable that is called as a function is": (
        "    g = 1\n    return g, b\n\ndef g(a):\n    return a",
        "1: the name 'g' belongs to a function: rename the variable",
    ),
    "the caller's variable in a helper": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    return a + b",
        "6: 'b' is unknown here: assign it before, or define an integer constant",
    ),
    "a helper's variable that may have no value, though the caller's has one": (
        "    b = g(a)\n    return a, b\n\ndef g(a):\n    if a > 1:\n        b = 1\n    return b",
        "8: 'b' may be unassigned here: assign it in every branch before",
    ),
    "a helper's loop": (
        "    x = g(a)\n    return x, b\n\ndef g(a):\n    while a > 1:\n        a -= 1\n    return a",
        f"6: the statement `while a > 1:` {NO_STATEMENT}",
    ),
    "a helper that is in no module": ("    x = g(a)\n    return x, b", f"2: the expression `g(a)` {NO_EXPRESSION}"),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("target", [LuaFunction, PlpgsqlFunction])
def test_what_the_generator_does_not_know_is_refused_with_its_file_and_line(
    source: str, message: str, target: type[LuaFunction]
) -> None:
    with pytest.raises(Untranslatable) as error:
        target.of(Module(f"def f(a, b):\n{source}\n", "policy.py"), "f")
    assert str(error.value) == f"policy.py:{message}"


def test_reserved_names_are_refused_in_helpers_as_well() -> None:
    source = "def f(a):\n    x = g(a)\n    return x, a\n\ndef g(end):\n    return end"
    with pytest.raises(Untranslatable, match=r"policy.py:5: the name 'end' is reserved in Lua: rename it"):
        LuaFunction.of(Module(source, "policy.py"), "f")
