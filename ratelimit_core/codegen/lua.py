"""Generate Lua from policies: the policy's function, and an adapter that reads its record, leases and arguments.

The adapter reads only the facts about leases that the policy uses. Lua's numbers are doubles, which represent the
numbers of a policy exactly, because all of them are below 2**53.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from ..policies import LIMITS, Policy
from ..policies.token_bucket import HIT
from .python import leases_of_hit
from .source import Untranslatable
from .subset import Function, heading

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "~=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Mod: "%"}


class LuaFunction(Function):
    """A policy in Lua. The result of ``%`` has the divisor's sign, as in Python."""

    language = "Lua"
    reserved = frozenset(
        "and break do else elseif end false for function goto if in local nil not or repeat return then true until "
        "while KEYS ARGV redis math string struct policies key argument now_text stored leases version verdict".split()
    )
    comparisons = _COMPARISONS
    elif_word = "elseif"

    def lines(self) -> Iterator[str]:
        yield f"local function {self.node.name}({', '.join(self.parameters)})"
        if self.locals:
            yield f"  local {', '.join(self.locals)}"
        yield from self.body
        yield "end"

    def name(self, name: str) -> str:
        return name

    def constant(self, value: int) -> str:
        return str(value)

    def arithmetic(self, left: str, operator: ast.operator, right: str) -> str | None:
        if isinstance(operator, ast.FloorDiv):
            return f"math.floor({left} / {right})"
        sign = _ARITHMETIC.get(type(operator))
        return f"({left} {sign} {right})" if sign else None

    def extreme(self, name: str, numbers: Sequence[str]) -> str:
        return f"math.{name}({', '.join(numbers)})"

    def assign(self, names: Sequence[str], numbers: Sequence[str]) -> str:
        return f"{', '.join(names)} = {', '.join(numbers)}"

    def give(self, numbers: Sequence[str]) -> str:
        return f"return {', '.join(numbers)}"

    def end_if(self) -> str:
        return "end"


_LEASE_READS = {
    "active": "redis.call('ZCOUNT', leases, '(' .. now_text, '+inf')",
    "ending_in_period": "redis.call('ZCOUNT', leases, '(' .. now_text, string.format('%.0f', now + period))",
    "first_end": "redis.call('ZRANGEBYSCORE', leases, '(' .. now_text, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]",
    "last_end": "redis.call('ZREVRANGE', leases, 0, 0, 'WITHSCORES')[2]",
    "capacity_at": "redis.call('ZREVRANGE', leases, {spare}, {spare}, 'WITHSCORES')[2]",
    "own_end": "redis.call('ZSCORE', leases, ARGV[argument])",
}
_COUNTS = ("active", "ending_in_period")


def _names(names: Iterable[str], form: str = "{}") -> str:
    return ", ".join(form.format(name) for name in names)


def _adapter(policy: Policy) -> Iterator[str]:
    """Yield the lines of the adapter, which reads the policy's inputs and packs the new record.

    A packed record contains the version, the expiry, and the fields.
    """
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
        yield f"      local version, expires, {_names(record, 'stored_{}')} = struct.unpack('{layout}', stored)"
        yield f"      if version == {policy.version} and expires > now then"
        yield f"        {_names(record)} = {_names(record, 'stored_{}')}"
        yield "        lasts = expires"
        yield "      end"
        yield "    end"
    if policy.leases:
        yield f"    local leases = KEYS[key + {int(bool(record))}]"
    always = leases_of_hit(policy) if policy in LIMITS else {*policy.leases}
    for name in policy.leases:
        if name in always:
            yield from _lease_read(policy, name, "    local ")
    if rest := [name for name in policy.leases if name not in always]:
        yield f"    local {_names(rest)} = {_names('0' for _ in rest)}"
        yield f"    if op ~= {HIT} then"
        for name in rest:
            yield from _lease_read(policy, name, "      ")
        yield "    end"
    answers = ["allowed", "wait", "first", "second", "expires", *(f"decided_{name}" for name in record)]
    answers += ["drop", "add", "ends"] if policy.leases else []
    inputs = (*record, *policy.event, "now", *policy.leases, *policy.config)
    if clash := {"tonumber", "lasts", *answers}.intersection(inputs):
        names = ", ".join(sorted(clash))
        raise Untranslatable(f"{policy.name}: the adapter uses the names {names} itself: rename these parameters")
    yield f"    local {_names(answers)} = {policy.name}({_names(inputs)})"
    yield f"    local verdict = {{{_names(answers)}}}"
    if record:
        changed = " or ".join(f"decided_{name} ~= {name}" for name in record)
        yield f"    if expires > 0 and ({changed}) then"
        new = _names(record, "decided_{}")
        yield f"      return verdict, expires, struct.pack('{layout}', {policy.version}, expires, {new})"
        yield "    end"
    yield f"    return verdict, {'lasts' if record else 0}"
    yield "  end,"
    yield "}"


def _lease_read(policy: Policy, name: str, begin: str) -> Iterator[str]:
    read = _LEASE_READS[name].format(spare=policy.spare)
    if name in _COUNTS:
        yield f"{begin}{name} = {read}"
    else:
        yield f"{begin}{name} = tonumber({read} or 0)"
        yield f"{begin.removesuffix('local ')}if {name} <= now then {name} = 0 end"


def lua_of(policy: Policy) -> str:
    """Return the text of the Lua file for ``policy``."""
    lines = [heading(policy), *LuaFunction.of_policy(policy).lines(), "", *_adapter(policy)]
    return "\n".join(lines) + "\n"
