"""The results of a case: the rows of the table and the figures behind them, as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from .measure import Contender, Role, Samples, Spread

Better = Literal["less", "more", "equal"]


@dataclass(frozen=True, slots=True)
class Best:
    """The figure of one contender."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a target, and the figures beside it. ``ours`` is None if this library can't do it yet."""

    what: str
    unit: str
    ours: float | None
    target: float
    better: Better = "less"
    peers: Sequence[Best] = ()
    floor: Best | None = None
    compared: bool = True
    """Whether ``ours`` as a multiple of the first peer's figure makes sense."""

    @property
    def times_the_first(self) -> float | None:
        """``ours`` as a multiple of the first peer's figure."""
        if self.ours is None or not self.compared or not self.peers or not self.peers[0].value:
            return None
        return self.ours / self.peers[0].value

    @property
    def reached(self) -> bool:
        match self.better:
            case "less":
                return self.ours is not None and self.ours <= self.target
            case "more":
                return self.ours is not None and self.ours >= self.target
            case "equal":
                return self.ours == self.target


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one contender for one call: times in µs, and commands at the server.

    ``added`` is the CPU time beyond that of the floor.
    """

    name: str
    role: Role
    cpu: Spread
    wall: Spread
    added: Spread | None = None
    commands: float | None = None
    server: float | None = None


@dataclass(frozen=True, slots=True)
class Curves:
    """The growth of a figure: for each contender one number at each place."""

    along: str
    unit: str
    places: Sequence[int]
    lines: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class Report:
    """All results of a case. The keys of ``figures`` and ``curves`` are the titles of the comparisons."""

    rows: Sequence[Row] = ()
    figures: dict[str, Sequence[Figures]] = field(default_factory=dict)
    curves: dict[str, Curves] = field(default_factory=dict)


def figures(
    contenders: Sequence[Contender], samples: dict[str, Samples], floor: str = "", asked: dict[str, Any] | None = None
) -> list[Figures]:
    """Return the figures of each contender.

    ``asked`` maps names to the commands and the server time in µs of one call, if the server counted them.
    """
    found = []
    for each in contenders:
        mine = samples[each.name]
        commands, server = (asked or {}).get(each.name, (None, None))
        added = mine.added_to(samples[floor]) if floor and each.name != floor else None
        cpu, wall = Spread.of(mine.cpu), Spread.of(mine.wall)
        found.append(Figures(each.name, each.role, cpu, wall, added, commands, server))
    return found


def load(data: dict[str, Any]) -> Report:
    rows = []
    for each in data["rows"]:
        peers, floor = [Best(**peer) for peer in each["peers"]], each["floor"] and Best(**each["floor"])
        rows.append(Row(**each | {"peers": peers, "floor": floor}))
    by_title: dict[str, Sequence[Figures]] = {
        title: [
            Figures(**each | {name: each[name] and Spread(**each[name]) for name in ("cpu", "wall", "added")})
            for each in found
        ]
        for title, found in data["figures"].items()
    }
    return Report(rows, by_title, {title: Curves(**found) for title, found in data["curves"].items()})


def number(value: float | None) -> str:
    """Format ``value`` with three significant digits."""
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.4f}"


_SIGN = {"less": "≤", "more": "≥", "equal": "="}


_COLUMNS = ("what", "best peers", "floor", "ours", "of the first", "target", "")


def cells(row: Row) -> tuple[str, Sequence[str], str, str, str, str, str]:
    """Return the cells of a row. The cell of the peers may have several lines."""
    return (
        row.what,
        [f"{peer.name} {number(peer.value)}" for peer in row.peers],
        f"{row.floor.name} {number(row.floor.value)}" if row.floor else "",
        f"{number(row.ours)} {row.unit}" if row.ours is not None else "",
        f"{number(row.times_the_first)} x" if row.times_the_first is not None else "",
        f"{_SIGN[row.better]} {number(row.target)} {row.unit}",
        "not there yet" if row.ours is None else "" if row.reached else "falls short",
    )


def table(rows: Sequence[Row]) -> Table:
    """Return the table of the targets."""
    shown = Table(title="Targets", title_justify="left")
    for column in _COLUMNS:
        numeric = column in ("ours", "of the first", "target")
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        what, peers, *others = cells(row)
        shown.add_row(what, "\n".join(peers), *others)
    return shown


_MEASURED = ("", "CPU, µs", "quartiles", "wall, µs", "commands", "server, µs")


def markdown(reports: Sequence[Report]) -> str:
    """Return the table, the comparisons and the curves as Markdown, for the page."""
    rows = [cells(row) for each in reports for row in each.rows]
    parts = [_lines(_COLUMNS, [(what, "<br>".join(peers), *others) for what, peers, *others in rows])]
    for each in reports:
        for title, found in each.figures.items():
            shown = sorted(found, key=lambda figure: figure.cpu.median)
            lines = [
                (
                    figure.name,
                    number(figure.cpu.median),
                    f"{number(figure.cpu.low)} - {number(figure.cpu.high)}",
                    number(figure.wall.median),
                    number(figure.commands),
                    number(figure.server),
                )
                for figure in shown
            ]
            parts.append(f"### {title}\n\n{_lines(_MEASURED, lines)}")
        for title, curves in each.curves.items():
            grown = [(name, *map(number, values)) for name, values in curves.lines.items()]
            columns = (curves.along, *(f"{place:,}" for place in curves.places))
            parts.append(f"### {title}: {curves.unit}\n\n{_lines(columns, grown)}")
    return "\n\n".join(parts)


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ruler, *rows))


def comparison(title: str, found: Sequence[Figures]) -> Table:
    """Return the table of one comparison of all contenders."""
    shown = Table(title=title, title_justify="left")
    for column in ("", "CPU µs", "quartiles", "added µs", "wall µs", "commands", "server µs"):
        shown.add_column(column, justify="right" if column else "left")
    for each in sorted(found, key=lambda figure: figure.cpu.median):
        shown.add_row(
            f"[bold]{each.name}[/bold]" if each.role == "ours" else each.name,
            number(each.cpu.median),
            f"{number(each.cpu.low)} - {number(each.cpu.high)}",
            number(each.added.median) if each.added else "",
            number(each.wall.median),
            number(each.commands),
            number(each.server),
        )
    return shown


def growth(title: str, found: Curves) -> Table:
    """Return the table of one growth."""
    shown = Table(title=f"{title}: {found.unit}", title_justify="left")
    shown.add_column(found.along)
    for place in found.places:
        shown.add_column(f"{place:,}", justify="right")
    for name, values in found.lines.items():
        shown.add_row(name, *map(number, values))
    return shown


def show(console: Console, reports: Sequence[Report]) -> None:
    """Print all results, the table of the targets last."""
    for report in reports:
        for title, found in report.figures.items():
            console.print(comparison(title, found))
        for title, curves in report.curves.items():
            console.print(growth(title, curves))
    console.print(table([row for report in reports for row in report.rows]))


def save(path: Path, reports: dict[str, Report], about: dict[str, Any]) -> None:
    """Write all figures, and the versions and the machine that they were measured with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cases = {name: asdict(report) for name, report in reports.items()}
    path.write_text(json.dumps({"about": about, "cases": cases}, indent=1) + "\n")


def read(path: Path) -> tuple[dict[str, Report], dict[str, Any]]:
    """Read the file that :func:`save` wrote."""
    saved = json.loads(path.read_text())
    return {name: load(found) for name, found in saved["cases"].items()}, saved["about"]


def least(values: dict[str, float], names: Sequence[str]) -> Best:
    """Return which of ``names`` has the smallest value."""
    name = min(names, key=lambda each: values[each])
    return Best(name, values[name])


def most(values: dict[str, float], names: Sequence[str]) -> Best:
    """Return which of ``names`` has the largest value."""
    name = max(names, key=lambda each: values[each])
    return Best(name, values[name])
