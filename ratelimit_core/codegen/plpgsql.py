"""Generate PL/pgSQL from policies: for each policy, a block that decides.

The function in ``backends/database/apply_call.sql`` contains the block. The block reads ``now``, the record's
``_fields`` and the function's parameters. It sets ``_verdict`` and ``own_end``.

A second function in place of the block would be easier to read, but decisions would take a tenth longer. PostgreSQL
prepares the expressions of a called function again in each transaction.

The policy's names are quoted, because they may be keywords of SQL. Names that begin with an underscore belong to the
surrounding function. Columns are always qualified.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from ..backends.database.sql import LEASES
from ..policies import LIMITS, Policy
from ..policies.token_bucket import HIT
from .python import leases_of_hit
from .subset import Function, heading

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=", ast.NotEq: "<>", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


class PlpgsqlFunction(Function):
    """A policy as a block that assigns its verdict to ``_verdict``."""

    language = "SQL"
    reserved = frozenset(["found"])
    comparisons = _COMPARISONS
    elif_word = "elsif"

    def check_name(self, name: str, node: ast.AST) -> None:
        if name.startswith("_") or len(name) > 63:
            raise self.refuse(
                node, f"the name {name!r} is reserved in SQL (it begins with _) or has over 63 characters: rename it"
            )
        super().check_name(name, node)

    def lines(self) -> Iterator[str]:
        yield "<<decide>>"
        if self.locals:
            yield f"declare {_each(self.locals, '{} bigint;')}"
        yield from ("begin", *self.body, "end;")

    def name(self, name: str) -> str:
        return f'"{name}"'

    def constant(self, value: int) -> str:
        return f"{value}::bigint"  # without the type, small constants would overflow sooner

    def arithmetic(self, left: str, operator: ast.operator, right: str) -> str | None:
        remainder = f"(({left} % {right} + {right}) % {right})"  # with the divisor's sign, unlike SQL's `%`
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
        while pairs:  # assign first to a name that no other value reads
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
    """Return the text of the SQL file for ``policy``."""
    reads = tuple(dict.fromkeys((*policy.leases, "own_end"))) if policy.leases else ()
    wanted = leases_of_hit(policy) if policy in LIMITS else {*reads}
    wanted |= {"own_end"} if wanted else set()  # the surrounding function needs `own_end` to write leases
    always, rest = [name for name in reads if name in wanted], [name for name in reads if name not in wanted]
    function = PlpgsqlFunction.of_policy(policy)
    declared = [f'"{name}" bigint := _fields[{i}];' for i, name in enumerate(policy.record, 1)]  # SQL counts from 1
    declared += [f'"{name}" bigint := 0;' for name in rest if name != "own_end"]
    declared += [f'"{name}" bigint;' for name in (*always, *function.locals) if name != "own_end"]
    lines = [
        heading(policy),
        "<<decide>>",
        "declare",
        *(f"  {line}" for line in declared),
        "begin",
        *_reading(policy, always, "  "),
        *([f'  if "op" <> {HIT} then', *_reading(policy, rest, "    "), "  end if;"] if rest else []),
        *function.body,
        "end;",
    ]
    return "\n".join(lines) + "\n"


def _reading(policy: Policy, names: Sequence[str], pad: str) -> Iterator[str]:
    if names:
        reads = [_LEASE_READS[name].format(spare=policy.spare) for name in names]
        yield f"{pad}select " + f",\n{pad}  ".join(f"coalesce(({read}), 0)" for read in reads)
        yield f"{pad}  into {_each(names, '{},').removesuffix(',')};"
