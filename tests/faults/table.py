"""The table of docs/reliability.md: one row for each fault, as the test that injected it saw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

BEGIN, END = "<!-- faults: written by `make faults` -->", "<!-- end of faults -->"
PARTS = ("The store", "The fleet", "The broker", "Exactness", "Soak")
COLUMNS = ("fault", "injected", "worst call", "reached the upstream", "lost", "over-admitted", "recovered in")


@dataclass(frozen=True, slots=True)
class Row:
    """What one fault did. Times are in seconds; None where a column has no meaning for this fault."""

    part: str
    """The heading it stands under, one of :data:`PARTS`."""
    fault: str
    injected: str
    """How it was injected, as in ``"SIGSTOP for 2 s"``."""
    worst_call: float | None = None
    upstream_calls: str = ""
    """How many reached the upstream, and of how many at most, as in ``"5 of 5"``."""
    lost: int | None = None
    over_admitted: int | None = None
    recovery: float | None = None
    """From the end of the fault until shared decisions were made again."""
    peers: str = ""
    """What other libraries did, with the figure, if one of them fails here."""


rows = pytest.StashKey[list[tuple[str, Row]]]()
"""The session's rows, with the id of the test that saw each."""


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def _cells(test: str, row: Row) -> Iterator[str]:
    path, name = test.split("::", 1)
    yield f'[{row.fault}](../{path} "{name}")' + (f" ({row.peers})" if row.peers else "")
    yield row.injected
    yield _seconds(row.worst_call)
    yield row.upstream_calls
    yield "" if row.lost is None else str(row.lost)
    yield "" if row.over_admitted is None else str(row.over_admitted)
    yield _seconds(row.recovery)


def markdown(seen: list[tuple[str, Row]]) -> str:
    """The tables, one for each part."""
    seen = sorted(seen, key=lambda each: PARTS.index(each[1].part))
    lines: list[str] = []
    for part, mine in groupby(seen, key=lambda each: each[1].part):
        lines += [f"### {part}", "", f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
        lines += [f"| {' | '.join(_cells(*each))} |" for each in mine]
        lines.append("")
    return "\n".join(lines)


def write(path: Path, seen: list[tuple[str, Row]]) -> None:
    """Put the tables between the markers in ``path``."""
    before, rest = path.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n\n{markdown(seen)}\n{END}{after}", "utf-8")
