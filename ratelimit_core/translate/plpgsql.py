"""PL/pgSQL from policies: for each a function that locks a record, decides, and writes what came of it.

Its arguments are the row's columns that never change, the time (NULL for the server's own), how many ms it may take,
the ticket's owner where the policy has leases, then event and configuration. It answers with the verdict.

Names of the policy stand in quotes, so that SQL may mean something by them, too; what begins with an underscore is
ours. Columns are always qualified.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from ..backends.database.sql import AGES, LEASES, NOBODY, RECORDS
from ..policies import ALLOWED, EXPIRES, LIMITS, RECORD, Policy
from ..policies.token_bucket import HIT
from .hits import leases_of_hit
from .subset import Function, heading

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: "<>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


class PlpgsqlFunction(Function):
    """A policy as a block that leaves its answer in ``_verdict``."""

    language = "SQL"
    reserved = frozenset(["found"])
    comparisons = _COMPARISONS
    elif_word = "elsif"

    def check_name(self, name: str, node: ast.AST) -> None:
        if name.startswith("_") or len(name) > 63:
            raise self.refuse(node, f"the name {name!r}, which SQL reserves or cuts,")
        super().check_name(name, node)

    def lines(self) -> Iterator[str]:
        yield "<<decide>>"
        if self.locals:
            yield f"declare {_each(self.locals, '{} bigint;')}"
        yield "begin"
        yield from self.body
        yield "end;"

    def name(self, name: str) -> str:
        return f'"{name}"'

    def constant(self, value: int) -> str:
        return f"{value}::bigint"  # a small one would be a smaller type, and overflow sooner

    def arithmetic(self, left: str, operator: ast.operator, right: str) -> str | None:
        remainder = f"(({left} % {right} + {right}) % {right})"  # the divisor's sign; SQL's own has the dividend's
        if isinstance(operator, ast.Mod):
            return remainder
        if isinstance(operator, ast.FloorDiv):
            return f"(({left} - {remainder}) / {right})"
        sign = _ARITHMETIC.get(type(operator))
        return f"({left} {sign} {right})" if sign else None

    def extreme(self, name: str, numbers: Sequence[str]) -> str:
        return f"{'least' if name == 'min' else 'greatest'}({', '.join(numbers)})"

    def assign(self, names: Sequence[str], numbers: Sequence[str]) -> str:
        if not any(name in number for name in names[:-1] for number in numbers[1:]):
            return " ".join(f"{name} := {number};" for name, number in zip(names, numbers, strict=True))
        new = " ".join(f"{name} := _new[{i}];" for i, name in enumerate(names, 1))
        return f"_new := array[{', '.join(numbers)}]; {new}"

    def give(self, numbers: Sequence[str]) -> str:
        return f"_verdict := array[{', '.join(numbers)}]; exit decide;"

    def end_if(self) -> str:
        return "end if;"


def _each(names: Iterable[str], form: str) -> str:
    return " ".join(form.format(f'"{name}"') for name in names)


_NOT_ENDED = f"from {LEASES} l where l.record = _id and l.ends > _now"
_LEASE_READS = {
    "held": f"select count(*) {_NOT_ENDED}",
    "current": f'select count(*) {_NOT_ENDED} and l.ends <= _now + "period"',
    "next_end": f"select min(l.ends) {_NOT_ENDED}",
    "newest": f"select max(l.ends) {_NOT_ENDED}",
    "room_at": f'select l.ends {_NOT_ENDED} order by l.ends desc limit 1 offset "slots"',
    "mine": f"select l.ends {_NOT_ENDED} and l.owner = _owner and l.part = 1 order by l.ends desc limit 1",
}


def plpgsql_of(policy: Policy) -> str:
    """The whole generated file of one policy; ``{name}`` stands for the function's name."""
    lines = [heading(policy), *_lines(policy, list(PlpgsqlFunction.of_policy(policy).lines()))]
    return "\n".join(lines) + "\n"


def _lines(policy: Policy, decide: Sequence[str]) -> Iterator[str]:
    record, leases, width = policy.record, policy.leases, len(policy.record)
    reads = tuple(dict.fromkeys((*leases, "mine"))) if leases else ()
    # In arrays of SQL things begin at 1.
    allowed, expires, first, last = ALLOWED + 1, EXPIRES + 1, RECORD + 1, RECORD + width
    drop, add, ends = (f"_verdict[{last + i}]" for i in (1, 2, 3))

    yield "create or replace function {name}("
    yield "  _id text, _prefix text, _name text, _qualifier text, _clock bigint, _ms bigint,"
    yield from ["  _owner text,"] if leases else []
    yield "  " + _each((*policy.event, *policy.config), "{} bigint,").removesuffix(",")
    yield ") returns bigint[] language plpgsql as $$"
    yield "declare"
    yield "  _now bigint; _version int; _expires bigint; _data text; _kept_until bigint;"
    yield "  _found boolean; _newcomer boolean := false; _verdict bigint[]; _new bigint[]; _setting text;"
    yield "  _ended text; _was text; _fields bigint[]; _record text; _changes boolean := false;"
    yield f"  {_each((*record, 'now', *reads), '{} bigint;')}"
    yield "begin"
    yield "  _setting := set_config('lock_timeout', (_ms * 9 / 10)::text, true);"
    yield "  _setting := set_config('synchronous_commit', 'off', true);"
    yield "  loop"
    yield "    select r.version, r.expires, r.data, r.kept_until into _version, _expires, _data, _kept_until"
    yield f"      from {RECORDS} r where r.id = _id for update;"
    yield "    _found := found;"
    yield "    _now := coalesce(_clock, (extract(epoch from clock_timestamp()) * 1000000)::bigint);"
    if record:
        yield f"    _was := '{' '.join('0' * width)}';"
        number = "-?[0-9]{1,16}"
        numbers = f"^{number}( {number}){{{width - 1}}}$"
        yield f"    if _version = {policy.version} and _expires > _now and _data ~ '{numbers}' then"
        yield "      _was := _data;"
        yield "    end if;"
        yield "    _fields := string_to_array(_was, ' ')::bigint[];"
        yield "    " + " ".join(f'"{name}" := _fields[{i}];' for i, name in enumerate(record, 1))
    always = leases_of_hit(policy) if policy in LIMITS else {*reads}
    always |= {"mine"} if always else set()  # who takes leases has to know
    yield from _reading([name for name in reads if name in always], "    ")
    if rest := [name for name in reads if name not in always]:
        yield "    " + _each(rest, "{} := 0;")
        yield f'    if "op" <> {HIT} then'
        yield from _reading(rest, "      ")
        yield "    end if;"
    yield '    "now" := _now;'
    yield from (f"    {line}" for line in decide)
    writes = []
    if record:
        yield f"    _record := array_to_string(_verdict[{first}:{last}], ' ');"
        yield f"    _changes := _verdict[{expires}] > 0 and _record <> _was;"
        writes.append("_changes")
    if leases:
        writes += [f"{drop} <> 0", f"{add} <> 0"]
    yield f"    if _verdict[{allowed}] = 0 or not ({' or '.join(writes)}) then"
    yield "      return _verdict;"
    yield "    end if;"
    yield "    exit when _found;"
    yield f"    insert into {RECORDS} (id, prefix, policy, name, qualifier, version, expires, data, kept_until)"
    yield f"      values (_id, _prefix, '{policy.name}', _name, _qualifier, 0, 0, '', 0) on conflict do nothing;"
    yield "    _newcomer := true;"
    yield "  end loop;"
    yield "  if clock_timestamp() > statement_timestamp() + _ms * interval '1 ms' then"
    yield "    raise query_canceled using message = 'nobody waits any more for what was asked';"
    yield "  end if;"
    if record:
        yield "  if _changes then"
        yield f"    _version := {policy.version}; _expires := _verdict[{expires}]; _data := _record;"
        yield "    if _expires > _kept_until then"
        yield "      _kept_until := 2 * _expires - _now; -- so that it need not be moved each time"
        yield f"    elsif _kept_until > 2 * _expires - _now + {AGES} then -- it was to last for ever"
        newest = f"(select max(l.ends) from {LEASES} l where l.record = _id)" if leases else "0"
        yield f"      _kept_until := greatest(2 * _expires - _now, {newest});"
        yield "    end if;"
        yield "  end if;"
    if leases:
        yield f"  if {drop} <> 0 or {add} <> 0 then"
        yield f"    delete from {LEASES} l where l.record = _id and l.ends <= _now;"
        yield f"    if {drop} > 0 then"
        yield f"      delete from {LEASES} l where l.record = _id and l.owner = _owner and l.part <= {drop};"
        yield "    end if;"
        yield f'    if "mine" > 0 and {drop} < {add} then'
        yield f"      update {LEASES} l set owner = '{NOBODY}'"
        yield f"        where l.record = _id and l.owner = _owner and l.part <= {add};"
        yield "    end if;"
        yield f"    insert into {LEASES} (record, owner, part, ends)"
        yield f"      select _id, case when {add} > 0 then _owner else '{NOBODY}' end, s.part, {ends}"
        yield f"      from generate_series(1, abs({add})) as s(part);"
        yield f"    if {add} <> 0 and {ends} > _kept_until then"
        yield f"      _changes := true; _kept_until := 2 * {ends} - _now; -- likewise"
        yield "    end if;"
        yield "  end if;"
    yield "  if _changes then"
    yield f"    update {RECORDS} r"
    yield "      set version = _version, expires = _expires, data = _data, kept_until = _kept_until where r.id = _id;"
    yield "  end if;"
    yield "  if _newcomer then -- sweeps out two that have ended"
    yield f"    for _ended in select r.id from {RECORDS} r where r.kept_until <= _now"
    yield "      order by r.kept_until limit 2 for update skip locked"
    yield "    loop"
    yield f"      delete from {LEASES} l where l.record = _ended;"
    yield f"      delete from {RECORDS} r where r.id = _ended;"
    yield "    end loop;"
    yield "  end if;"
    yield "  return _verdict;"
    yield "end $$;"


def _reading(names: Sequence[str], pad: str) -> Iterator[str]:
    if names:
        yield f"{pad}select " + f",\n{pad}  ".join(f"coalesce(({_LEASE_READS[name]}), 0)" for name in names)
        yield f"{pad}  into {_each(names, '{},').removesuffix(',')};"
