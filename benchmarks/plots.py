"""Draw the figures as pictures: the cost of each library, and the growth of the cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from .report import Curves, Figures, Report, number

OURS, PEER, FLOOR = "#0b7285", "#adb5bd", "#dee2e6"
LINES = {True: ["#0b7285", "#22b8cf"], False: ["#e8590c", "#5f3dc4", "#868e96", "#c2255c"]}
"""The colours of this library (True) and of the others (False)."""

Value = Callable[[Figures], float]

_OF: dict[str, tuple[str, Value]] = {
    "A call through a closed breaker": (
        "µs of CPU added to the call",
        lambda each: each.added.median if each.added else 0,
    ),
    "A rejection by an open breaker": ("µs of CPU", lambda each: each.cpu.median),
    "A check of a limiter in memory": ("µs of CPU", lambda each: each.cpu.median),
    "A check of a limiter on Redis": ("µs of the client's CPU", lambda each: each.cpu.median),
    "A Django view": ("µs of CPU added to the view", lambda each: each.added.median if each.added else 0),
    "A check of a limiter on PostgreSQL": ("µs until the answer", lambda each: each.wall.median),
}
"""The label of the axis and the drawn value, for each comparison."""


def draw(reports: Sequence[Report], path: Path) -> list[Path]:
    """Write the pictures for which there are figures beside ``path``, and return their paths."""
    compared = {title: found for each in reports for title, found in each.figures.items() if title in _OF}
    curves = {title: found for each in reports for title, found in each.curves.items()}
    written = []
    if compared:
        written.append(_picture(path.with_suffix(".svg"), compared, _bars, 3.6))
    if curves:
        written.append(_picture(path.with_name(f"{path.stem}-growth.svg"), curves, _lines, 3.0))
    return written


def _picture(path: Path, panels: dict[str, Any], draw: Callable[[Any, str, Any], None], height: float) -> Path:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.family": "sans-serif", "font.size": 9})
    from matplotlib import pyplot

    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(6 * columns, height * rows), squeeze=False)
    places = list(axes.flat)
    for axis, (title, found) in zip(places, panels.items(), strict=False):
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis, title, found)
    for axis in places[len(panels) :]:
        axis.remove()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _bars(axis: Any, title: str, found: Sequence[Figures]) -> None:
    label, value = _OF[title]
    shown = sorted((each for each in found if value(each) > 0), key=value, reverse=True)
    colours = [{"ours": OURS, "peer": PEER, "floor": FLOOR}[each.role] for each in shown]
    bars = axis.barh([each.name for each in shown], [value(each) for each in shown], color=colours)
    axis.bar_label(bars, [number(value(each)) for each in shown], padding=3, fontsize=8)
    axis.set_xscale("log")
    axis.minorticks_off()
    axis.set_xlabel(f"{label} (logarithmic)")
    axis.margins(x=0.15)


def _lines(axis: Any, title: str, found: Curves) -> None:
    colours = {ours: iter(those) for ours, those in LINES.items()}
    for name, values in found.lines.items():
        points = [(place, value) for place, value in zip(found.places, values, strict=True) if value is not None]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                marker="o",
                markersize=3,
                label=name,
                color=next(colours["resilient" in name]),
            )
    if max(found.places) / min(found.places) > 20:
        axis.set_xscale("log")
    numbers = [value for values in found.lines.values() for value in values if value]
    if numbers and max(numbers) / min(numbers) > 20:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_xlabel(found.along)
    axis.set_ylabel(found.unit)
    if axis.lines:
        axis.legend(fontsize=7, frameon=False)
