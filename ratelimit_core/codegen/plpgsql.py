"""PL/pgSQL from policies: for each policy a function that locks a record, decides, and writes the verdict.

Its parameters are the row's columns that never change, the time (NULL for the server's own), how many ms it may take,
the ticket's owner if the policy has leases, then event and configuration. It returns the verdict. What all policies
share is in two functions that are written by hand, ``lock_record`` and ``write_verdict`` in ``backends/database/``.

Names of the policy are quoted, so that they may be words of SQL. Names that begin with an underscore are the
generator's. Columns are always qualified.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from ..backends.database_sql import LEASES
from ..policies import LIMITS, Policy
from ..policies.token_bucket import HIT
from .python import leases_of_hit
from .subset import Function, heading

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: "<>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


class PlpgsqlFunction(Function):
    """A policy as a block that leaves its verdict in ``_verdict``."""

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
        pairs = dict(zip(names, numbers, strict=True))
        text = []
        while pairs:  # first a name that none of the others reads
            name = next((n for n in pairs if not any(n in number for m, number in pairs.items() if m != n)), None)
            if name is None:
                new = " ".join(f"{name} := _new[{i}];" for i, name in enumerate(pairs, 1))
                text.append(f"_new := array[{', '.join(pairs.values())}]; {new}")
                break
            text.append(f"{name} := {pairs.pop(name)};")
        return " ".join(text)

    def give(self, numbers: Sequence[str]) -> str:
        return f"_verdict := array[{', '.join(numbers)}]; exit decide;"

    def end_if(self) -> str:
        return "end if;"


def _each(names: Iterable[str], form: str) -> str:
    return " ".join(form.format(f'"{name}"') for name in names)


_NOT_ENDED = f'from {LEASES} l where l.record = _id and l.ends > "now"'
_LEASE_READS = {
    "active": f"select count(*) {_NOT_ENDED}",
    "ending_in_period": f'select count(*) {_NOT_ENDED} and l.ends <= "now" + "period"',
    "first_end": f"select min(l.ends) {_NOT_ENDED}",
    "last_end": f"select max(l.ends) {_NOT_ENDED}",
    "capacity_at": f'select l.ends {_NOT_ENDED} order by l.ends desc limit 1 offset "{{spare}}"',
    "own_end": f"select l.ends {_NOT_ENDED} and l.owner = _owner and l.part = 1 order by l.ends desc limit 1",
}


def plpgsql_of(policy: Policy) -> str:
    """Return the generated file of one policy. Names in braces stand for those of the functions."""
    lines = [heading(policy), *_lines(policy, PlpgsqlFunction.of_policy(policy))]
    return "\n".join(lines) + "\n"


def _lines(policy: Policy, function: Function) -> Iterator[str]:
    record, leases = policy.record, policy.leases
    reads = tuple(dict.fromkeys((*leases, "own_end"))) if leases else ()
    yield "create or replace function {name}("
    yield "  _id text, _prefix text, _name text, _qualifier text, _clock bigint, _ms bigint,"
    yield from ["  _owner text,"] if leases else []
    yield "  " + _each((*policy.event, *policy.config), "{} bigint,").removesuffix(",")
    yield ") returns bigint[] language plpgsql as $$"
    yield "declare"
    yield "  _stored bigint[]; _verdict bigint[]; _new bigint[];"
    yield f"  {_each(('now', *record, *reads), '{} bigint;')}"
    yield "begin"
    yield "  loop"
    yield f"    _stored := {{lock_record}}(_id, {policy.version}, {len(record)}, _clock, _ms);"
    yield '    "now" := _stored[1];'
    if record:  # in arrays of SQL the first place is 1
        yield "    " + " ".join(f'"{name}" := _stored[{i}];' for i, name in enumerate(record, 3))
    always = leases_of_hit(policy) if policy in LIMITS else {*reads}
    always |= {"own_end"} if always else set()  # write_verdict needs it
    yield from _reading(policy, [name for name in reads if name in always], "    ")
    if rest := [name for name in reads if name not in always]:
        yield "    " + _each(rest, "{} := 0;")
        yield f'    if "op" <> {HIT} then'
        yield from _reading(policy, rest, "      ")
        yield "    end if;"
    yield from (f"    {line}" for line in function.lines())
    owner = '_owner, "own_end"' if leases else "'', 0"
    yield "    exit when _verdict[1] = 0 or {write_verdict}("
    yield f"      _id, _prefix, '{policy.name}', _name, _qualifier, {policy.version}, _ms, {owner}, _stored, _verdict"
    yield "    );"
    yield "  end loop;"
    yield "  return _verdict;"
    yield "end $$;"


def _reading(policy: Policy, names: Sequence[str], pad: str) -> Iterator[str]:
    if names:
        reads = [_LEASE_READS[name].format(spare=policy.spare) for name in names]
        yield f"{pad}select " + f",\n{pad}  ".join(f"coalesce(({read}), 0)" for read in reads)
        yield f"{pad}  into {_each(names, '{},').removesuffix(',')};"
