"""Generate faster Python from policies: a function that decides a hit of cost 1, for limits in memory.

The generated function is the policy's function with these changes:

* The values of the event are filled in, and branches that can't be reached are left out.
* Values that depend only on the configuration are computed once, in an outer function.
* ``min`` and ``max`` are written as comparisons.

Without these changes, a check of a token bucket in memory has 16 % of the speed of a lock and a dictionary. With these
changes, it has 24 %, and a limited Django view takes about 4 µs less.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Iterator
from typing import cast

from ..policies import Policy
from .source import Module
from .subset import heading

_ASKED = {"cost": 1, "not_before": 0, "max_wait": 0, "own_end": 0}
"""The known values of a hit besides ``op``. ``own_end`` is 0, because each hit has a new lease id."""

_READS = {
    "active": "len(by_end) - first",
    "last_end": "by_end[-1][0] if first < len(by_end) else 0",
    "capacity_at": "by_end[-1 - {spare}][0] if {spare} < len(by_end) - first else 0",
}
"""Expressions that read facts about leases. ``by_end`` is sorted by end; its first ``first`` leases have ended."""

_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Gt: operator.gt, ast.LtE: operator.le,
}  # fmt: skip


def hit_of(policy: Policy) -> str:
    """Return the text of the Python file for ``policy``."""
    fixed = [*(name for name in policy.event if name not in ("op", *_ASKED)), *policy.config]
    once, each = _hoisted(_hit(policy, _ASKED), fixed)
    inline = _Inline()
    each = [inline.visit(statement) for statement in each]
    leases = [name for name in policy.leases if name in _names(each)]
    lines = [
        heading(policy).replace("--", "#", 1),
        "from . import Decide, Ends, Record, Verdict",
        "",
        f"LEASES = {bool(leases)}",
        "",
        "",
        f"def hit({', '.join(f'{name}: int' for name in fixed)}) -> Decide:",
        *_text(once, 1),
        "    def decide(record: Record, now: int, by_end: Ends, first: int) -> Verdict:",
        *([f"        {', '.join(policy.record)} = record"] if policy.record else []),
        *(f"        {name} = {_READS[name].format(spare=policy.spare)}" for name in leases),
        *_text(each, 2),
        "    return decide",
    ]
    return "\n".join(lines) + "\n"


def leases_of_hit(policy: Policy) -> set[str]:
    """Return the names of the facts about leases that ``policy`` reads for a hit of any cost."""
    return _names(_hit(policy, {})) & {*policy.leases}


def _hit(policy: Policy, known: dict[str, int]) -> list[ast.stmt]:
    """Return the statements of ``policy`` for a hit whose event has the ``known`` values."""
    module = Module.of(policy)
    known = module.constants | known | {"op": module.constants["HIT"]}
    return _specialised(module.function(policy.name).body, known, (*policy.record, *policy.leases))


def _text(body: list[ast.stmt], depth: int) -> Iterator[str]:
    for statement in body:
        for line in ast.unparse(ast.fix_missing_locations(statement)).splitlines():
            yield "    " * depth + line


def _names(body: list[ast.stmt]) -> set[str]:
    return {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _assigned(body: list[ast.stmt]) -> dict[str, list[ast.expr | None]]:
    """Return the expressions that are assigned to each variable. None stands for other kinds of assignment."""
    found: dict[str, list[ast.expr | None]] = {}
    for node in (node for statement in body for node in ast.walk(statement)):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.setdefault(name, []).append(value)
            case ast.Assign(targets=[ast.Tuple(elts=targets)]):
                for target in targets:
                    found.setdefault(ast.unparse(target), []).append(None)
            case ast.AugAssign(target=ast.Name(id=name)):
                found.setdefault(name, []).append(None)
    return found


def _specialised(body: list[ast.stmt], known: dict[str, int], inputs: Collection[str]) -> list[ast.stmt]:
    """Fill the known values into ``body``. Repeat with the values that become known, until no new value is found."""
    while known:
        body = _Fold(known).block(body)
        known = {}
        for name, values in _assigned(body).items():
            found = {value.value if isinstance(value, ast.Constant) else None for value in values}
            if name not in inputs and len(found) == 1 and isinstance(value := found.pop(), int):
                known[name] = value
    return body


def _hoisted(body: list[ast.stmt], fixed: Collection[str]) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Return the statements of ``body`` that depend only on ``fixed`` names, and the other statements."""
    assigned, settled = _assigned(body), set(fixed)
    once: list[ast.stmt] = []
    each: list[ast.stmt] = []
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if (
                len(assigned[name]) == 1 and _names([ast.Expr(value)]) <= settled
            ):
                settled.add(name)
                once.append(statement)
            case _:
                each.append(statement)
    return once, each


class _Fold(ast.NodeTransformer):
    """A transformer that fills in known values and leaves out branches that can't be reached."""

    def __init__(self, known: dict[str, int]) -> None:
        self._known = known

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [kept for statement in body for kept in self._statement(statement)]

    def _statement(self, statement: ast.stmt) -> list[ast.stmt]:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name in self._known:
                return []
            case ast.If(test=test, body=body, orelse=orelse):
                test = self.visit(test)
                if isinstance(test, ast.Constant):
                    return self.block(body if test.value else orelse)
                return [ast.If(test, self.block(body) or [ast.Pass()], self.block(orelse))]
        return [self.visit(statement)]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self._known[node.id]) if node.id in self._known else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        match node.op, _value(left), _value(right):
            case ast.Add() | ast.Sub() | ast.Mult(), int(a), int(b):
                return ast.Constant(_OPERATORS[type(node.op)](a, b))
            case (ast.Mult(), 1, _) | (ast.Add(), 0, _):
                return cast(ast.expr, right)
            case (ast.Mult(), _, 1) | (ast.Add() | ast.Sub(), _, 0):
                return cast(ast.expr, left)
        return ast.BinOp(left, node.op, right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand)
        match node.op, _value(operand):
            case ast.USub(), int(value):
                return ast.Constant(-value)
        return ast.UnaryOp(node.op, operand)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        left, *others = map(self.visit, (node.left, *node.comparators))
        match node.ops, _value(left), _value(others[0]):
            case [relation], int(a), int(b):
                return ast.Constant(_OPERATORS[type(relation)](a, b))
        return ast.Compare(left, node.ops, others)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        settles = isinstance(node.op, ast.Or)  # the value of an operand that decides the result
        kept: list[ast.expr] = []
        for value in map(self.visit, node.values):
            if not isinstance(value, ast.Constant):
                kept.append(value)
            elif bool(value.value) is settles:
                return ast.Constant(settles)
        return ast.BoolOp(node.op, kept) if len(kept) > 1 else kept[0] if kept else ast.Constant(not settles)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return ast.Call(node.func, [self.visit(value) for value in node.args], [])


def _value(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None


class _Inline(ast.NodeTransformer):
    """A transformer that writes ``min`` and ``max`` of two values as comparisons, which are five times as fast."""

    def __init__(self) -> None:
        self._temporaries = 0

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[a, b]):
                left, a = self._named(a)
                right, b = self._named(b)
                compare: ast.cmpop = ast.Gt() if name == "max" else ast.Lt()
                return ast.IfExp(ast.Compare(left, [compare], [right]), a, b)
        return node

    def _named(self, value: ast.expr) -> tuple[ast.expr, ast.expr]:
        """Return the expression that computes ``value`` and the expression that uses the result again."""
        if isinstance(value, ast.Name | ast.Constant):
            return value, value
        self._temporaries += 1
        name = f"x{self._temporaries}"
        return ast.NamedExpr(ast.Name(name, ast.Store()), value), ast.Name(name)
