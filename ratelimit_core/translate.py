"""Lua from policies: ``python -m ratelimit_core.translate`` writes it, ``--check`` verifies what is checked in.

A policy keeps to a subset of Python that means the same in both languages: parameters, assignment (of tuples
too), ``if``/``elif``/``else``, comparisons joined by ``and``/``or``/``not``, ``+ - * // %``, ``min``, ``max``,
integer constants of the module, and ``return`` of a tuple, last in its block. Whatever else stands there is
refused with its file and line. Numbers stay below 2**53, where Lua's doubles are exact.

Beside the function comes what reads its record, leases and arguments, so that nothing is decoded that the
policy did not ask for.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from .policies import POLICIES, Policy

LUA = Path(__file__).parent / "lua"

_RESERVED = frozenset(
    "and break do else elseif end false for function goto if in local nil not or repeat return then true until while "
    "KEYS ARGV redis math string struct policies key argument now_text stored leases version verdict".split()
)
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "~=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Mod: "%"}


class Untranslatable(ValueError):
    """A policy uses something outside the subset. The message names file, line and what it is."""


class _Function:
    """Translates one function definition."""

    def __init__(self, node: ast.FunctionDef, constants: dict[str, int], file: str) -> None:
        self.node, self.constants, self.file = node, constants, file
        arguments = node.args
        self.parameters = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        if arguments.vararg or arguments.kwarg or arguments.defaults or any(arguments.kw_defaults):
            raise self.refuse(node, "a parameter with a default or a star")
        if node.decorator_list:
            raise self.refuse(node, "a decorator")
        for name in (node.name, *self.parameters):
            self.check_name(name, node)
        self.locals: list[str] = []
        self.assigned = set(self.parameters)

    def refuse(self, node: ast.AST, what: str) -> Untranslatable:
        return Untranslatable(f"{self.file}:{getattr(node, 'lineno', 0)}: {what} is outside the subset of policies")

    def check_name(self, name: str, node: ast.AST) -> None:
        if name in _RESERVED:
            raise self.refuse(node, f"the name {name!r}, which Lua reserves,")
        if name in self.constants or not name.isascii():
            raise self.refuse(node, f"the name {name!r}, which is a constant's or not ASCII,")

    def lines(self) -> Iterator[str]:
        statements = self.node.body[1:] if ast.get_docstring(self.node) is not None else self.node.body
        if not self.returns(statements):
            raise self.refuse(self.node, "a function that may end without a return")
        body = list(self.block(statements, 1))
        yield f"local function {self.node.name}({', '.join(self.parameters)})"
        if self.locals:
            yield f"  local {', '.join(self.locals)}"
        yield from body
        yield "end"

    def returns(self, body: list[ast.stmt]) -> bool:
        match body:
            case [*_, ast.If() as last]:
                return self.returns(last.body) and self.returns(last.orelse)
            case [*_, ast.Return()]:
                return True
        return False

    def block(self, body: list[ast.stmt], depth: int) -> Iterator[str]:
        pad = "  " * depth
        for statement in body:
            if isinstance(statement, ast.Return):
                if statement is not body[-1]:
                    raise self.refuse(statement, "a return that is not last in its block")
                if not isinstance(statement.value, ast.Tuple):
                    raise self.refuse(statement, "a return of anything but a tuple")
                yield f"{pad}return {', '.join(self.number(item) for item in statement.value.elts)}"
            elif isinstance(statement, ast.If):
                yield from self.branch(statement, depth)
            elif isinstance(statement, ast.AugAssign):
                operation = ast.BinOp(statement.target, statement.op, statement.value)
                value = self.number(ast.copy_location(operation, statement))
                yield f"{pad}{self.target(statement.target)} = {value}"
            elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                yield pad + self.assignment(statement.targets[0], statement.value)
            else:
                raise self.refuse(statement, f"the statement `{ast.unparse(statement).splitlines()[0]}`")

    def branch(self, node: ast.If, depth: int) -> Iterator[str]:
        pad = "  " * depth
        before = self.assigned
        after: list[set[str]] = []  # what has a value at the end of each branch that goes on
        word, rest = "if", list[ast.stmt]([node])
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            inner = rest[0]
            yield f"{pad}{word} {self.condition(inner.test)} then"
            yield from self.block(inner.body, depth + 1)
            if not self.returns(inner.body):
                after.append(self.assigned)
            self.assigned = before
            word, rest = "elseif", inner.orelse
        if rest:
            yield f"{pad}else"
            yield from self.block(rest, depth + 1)
        if not self.returns(rest):
            after.append(self.assigned)
        self.assigned = set.intersection(*after) if after else before
        yield f"{pad}end"

    def assignment(self, target: ast.expr, value: ast.expr) -> str:
        if not isinstance(target, ast.Tuple):
            number = self.number(value)
            return f"{self.target(target)} = {number}"
        if not isinstance(value, ast.Tuple) or len(value.elts) != len(target.elts):
            raise self.refuse(value, "unpacking of anything but a tuple of the same length")
        numbers = [self.number(item) for item in value.elts]
        names = [self.target(item) for item in target.elts]
        if len(set(names)) < len(names):
            raise self.refuse(target, "assignment to the same name twice at once")
        return f"{', '.join(names)} = {', '.join(numbers)}"

    def target(self, node: ast.expr) -> str:
        if not isinstance(node, ast.Name):
            raise self.refuse(node, f"assignment to `{ast.unparse(node)}`")
        self.check_name(node.id, node)
        if node.id not in self.parameters and node.id not in self.locals:
            self.locals.append(node.id)
        self.assigned = self.assigned | {node.id}
        return node.id

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.BoolOp):
            word = " and " if isinstance(node.op, ast.And) else " or "
            return "(" + word.join(self.condition(value) for value in node.values) + ")"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return f"not ({self.condition(node.operand)})"
        if not isinstance(node, ast.Compare):
            raise self.refuse(node, f"the truth of `{ast.unparse(node)}` (compare it)")
        operands = [self.number(item) for item in (node.left, *node.comparators)]
        parts = []
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            if type(operator) not in _COMPARE:
                raise self.refuse(node, f"the comparison `{ast.unparse(node)}`")
            parts.append(f"{left} {_COMPARE[type(operator)]} {right}")
        return parts[0] if len(parts) == 1 else "(" + " and ".join(parts) + ")"

    def number(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=int() as value) if _is_exact(value):
                return str(value)
            case ast.Name(id=name) if name in self.constants:
                return str(self.constants[name])
            case ast.Name(id=name) if name in self.assigned:
                return name
            case ast.Name(id=name) if name in self.locals:
                raise self.refuse(node, f"the name {name!r}, which may have no value here,")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return f"(-{self.number(operand)})"
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return f"math.floor({self.number(left)} / {self.number(right)})"
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                return f"({self.number(left)} {_ARITHMETIC[type(operator)]} {self.number(right)})"
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=[_, _, *_] as items, keywords=[]):
                return f"math.{name}({', '.join(self.number(item) for item in items)})"
        raise self.refuse(node, f"the expression `{ast.unparse(node)}`")


def _is_exact(value: int) -> bool:
    return not isinstance(value, bool) and value < 2**53


def translate(source: str, name: str, file: str) -> Iterator[str]:
    """Translate the function ``name`` of ``source`` into lines of Lua.

    Raises:
        Untranslatable: something in it is outside the subset.
    """
    tree = ast.parse(source, file)
    constants: dict[str, int] = {}
    function = None
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Constant(value=int() as value)):
                if _is_exact(value):
                    constants[constant] = value
            case ast.FunctionDef() if node.name == name:
                function = node
    if function is None:
        raise Untranslatable(f"{file}: there is no function {name!r}")
    yield from _Function(function, constants, file).lines()


_LEASE_READS = {
    "held": "redis.call('ZCOUNT', leases, '(' .. now_text, '+inf')",
    "current": "redis.call('ZCOUNT', leases, '(' .. now_text, string.format('%.0f', now + period))",
    "next_end": "redis.call('ZRANGEBYSCORE', leases, '(' .. now_text, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]",
    "newest": "redis.call('ZREVRANGE', leases, 0, 0, 'WITHSCORES')[2]",
    "room_at": "redis.call('ZREVRANGE', leases, slots, slots, 'WITHSCORES')[2]",
    "mine": "redis.call('ZSCORE', leases, ARGV[argument])",
}
_COUNTS = ("held", "current")


def _names(names: Iterable[str], form: str = "{}") -> str:
    return ", ".join(form.format(name) for name in names)


def _adapter(policy: Policy) -> Iterator[str]:
    """What reads the policy's inputs and packs its record: version and expiry, then the fields."""
    record, width = policy.record, 2 + len(policy.record)
    arguments = (*policy.event, *policy.config)
    layout = ">B" + "i8" * (width - 1)
    yield f"policies.{policy.name} = {{"
    yield f"  keys = {1 + bool(record) + bool(policy.leases)},"
    yield f"  arguments = {2 + len(arguments)},"
    yield f"  leases = {'true' if policy.leases else 'false'},"
    yield "  decide = function(now, now_text, key, argument)"
    offsets = ", ".join(f"tonumber(ARGV[argument + {i}])" for i in range(1, 1 + len(arguments)))
    yield f"    local {_names(arguments)} = {offsets}"
    if record:
        yield f"    local {_names(record)} = {_names('0' for _ in record)}"
        yield "    local stored, lasts = redis.call('GET', KEYS[key]), 0"
        yield f"    if stored and #stored == {1 + 8 * (width - 1)} then"
        yield f"      local version, expires, {_names(record, 'was_{}')} = struct.unpack('{layout}', stored)"
        yield f"      if version == {policy.version} and expires > now then"
        yield f"        {_names(record)} = {_names(record, 'was_{}')}"
        yield "        lasts = expires"
        yield "      end"
        yield "    end"
    if policy.leases:
        yield f"    local leases = KEYS[key + {int(bool(record))}]"
    for name in policy.leases:
        if name in _COUNTS:
            yield f"    local {name} = {_LEASE_READS[name]}"
        else:
            yield f"    local {name} = tonumber({_LEASE_READS[name]} or 0)"
            yield f"    if {name} <= now then {name} = 0 end"
    answers = ["allowed", "wait", "first", "second", "expires", *(f"new_{name}" for name in record)]
    answers += ["drop", "add", "ends"] if policy.leases else []
    inputs = (*record, *policy.event, "now", *policy.leases, *policy.config)
    if clash := {"tonumber", "lasts", *answers}.intersection(inputs):
        raise Untranslatable(f"{policy.name}: a parameter has the name of something else here: {clash}")
    yield f"    local {_names(answers)} = {policy.name}({_names(inputs)})"
    yield f"    local verdict = {{{_names(answers)}}}"
    if record:
        changed = " or ".join(f"new_{name} ~= {name}" for name in record)
        yield f"    if expires > 0 and ({changed}) then"
        new = _names(record, "new_{}")
        yield f"      return verdict, expires, struct.pack('{layout}', {policy.version}, expires, {new})"
        yield "    end"
    yield f"    return verdict, {'lasts' if record else 0}"
    yield "  end,"
    yield "}"


def lua_of(policy: Policy) -> str:
    """The whole generated file of one policy."""
    module: ModuleType = sys.modules[policy.decide.__module__]
    path = Path(inspect.getfile(policy.decide))
    lines = [
        f"-- Generated by ratelimit_core.translate from policies/{path.name}: change that file, then generate anew.",
        *translate(inspect.getsource(module), policy.name, str(path)),
        "",
        *_adapter(policy),
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the generated files, or with ``--check`` say which differ; the exit status says whether one did."""
    parser = argparse.ArgumentParser(prog="python -m ratelimit_core.translate", description="Lua from policies.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args(argv).check
    stale = []
    for policy in POLICIES.values():
        path, new = LUA / f"{policy.name}.lua", lua_of(policy)
        if not path.exists() or path.read_text("utf-8") != new:
            stale.append(path.name)
            if not check:
                path.write_text(new, "utf-8")
    expected = {f"{name}.lua" for name in POLICIES} | {"apply.lua"}
    orphans = sorted(path.name for path in LUA.glob("*.lua") if path.name not in expected)
    for name in stale:
        print(f"{name}: {'out of date; run python -m ratelimit_core.translate' if check else 'written'}")
    for name in orphans:
        print(f"{name}: belongs to no policy; delete it")
    return 1 if orphans or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
