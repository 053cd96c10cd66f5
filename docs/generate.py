"""Write the generated parts of the pages: ``python -m docs.generate``. A test fails if they are out of date.

* The tables of settings and of a breaker's options in ``reference.md``.
* The plots in ``algorithms.md``. Each plot shows a run of the algorithm on a manual clock.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

from ratelimit_core import CircuitBreakerConfig, Limiter
from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.config.schema import OF_VIEWS, SETTINGS
from ratelimit_core.limiter import Algorithm
from ratelimit_core.testing import ManualClock

DOCS = Path(__file__).parent

_ATTRIBUTE = re.compile(r"^    (?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)

LIMIT, PERIOD, SECONDS = 10, 10, 40
CALLS = [0.0] + [8.0 + n / 8 for n in range(32)] + [20.0 + n / 4 for n in range(80)]
"""The times of the calls in seconds: one call, then 8/s for 4 s across a window boundary, then 4/s for 20 s."""

WIDTH, ROW, LEFT, SCALE = 720, 64, 12, 17.4
_STYLE = """
text{font:13px system-ui,sans-serif;fill:#333}
.offered{fill:#bbb}.admitted{fill:#00796b}.axis{stroke:#999}
@media(prefers-color-scheme:dark){text{fill:#ddd}.offered{fill:#555}.admitted{fill:#4db6ac}.axis{stroke:#888}}
"""


def admissions(algorithm: Algorithm) -> list[float]:
    """Return the times of the calls that a limit of ``10/10s`` allows."""
    clock = ManualClock()
    limiter = Limiter(f"{LIMIT}/{PERIOD}s", key="plot", algorithm=algorithm, backend=MemoryBackend(clock=clock))
    start, admitted = clock.now, []
    for at in CALLS:
        clock.now = start + round(at * SECOND)
        if limiter.hit():
            admitted.append(at)
    return admitted


def most_in_a_period(times: list[float]) -> int:
    return max(sum(begin <= at < begin + PERIOD for at in times) for begin in times)


def plot(algorithm: Algorithm) -> str:
    """Draw the calls of each second, and the allowed ones among them."""
    admitted = admissions(algorithm)
    title = f"{algorithm}: {len(admitted)} of {len(CALLS)}, at most {most_in_a_period(admitted)} in any {PERIOD} s"
    bottom = ROW + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 20}" role="img" aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        f'<text x="{LEFT}" y="14">{title}</text>',
        f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - LEFT}"/>',
    ]
    for kind, times in (("offered", CALLS), ("admitted", admitted)):
        for second in range(SECONDS):
            height = 8 * sum(second <= at < second + 1 for at in times)
            if height:
                x = LEFT + second * SCALE
                lines.append(f'<rect class="{kind}" x="{x:.1f}" y="{bottom - height}" width="14" height="{height}"/>')
    for second in range(0, SECONDS + 1, PERIOD):
        anchor = "end" if second == SECONDS else "start"
        lines.append(
            f'<text x="{LEFT + second * SCALE:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{second} s</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def settings() -> Iterator[str]:
    """Yield the lines of the table of settings."""
    yield "| setting | default | may be | read by |"
    yield "|---|---|---|---|"
    for name, known in SETTINGS.items():
        default = "" if known.default is None else f"`{known.default!r}`"
        yield f"| `{name}` | {default} | {known.expected} | {'views' if name in OF_VIEWS else 'all'} |"


def options() -> Iterator[str]:
    """Yield the lines of the table of a breaker's options, with the texts from the docstring."""
    defaults: dict[str, object] = {field.name: field.default for field in fields(CircuitBreakerConfig)}
    yield "| option | default | |"
    yield "|---|---|---|"
    for found in _ATTRIBUTE.finditer(inspect.getdoc(CircuitBreakerConfig) or ""):
        names = found["names"].split(", ")
        shown = ", ".join(_shown(defaults[name]) for name in names if defaults[name] not in (None, ""))
        text = " ".join(found["text"].split()).replace("``", "`")
        yield f"| {', '.join(f'`{name}`' for name in names)} | {shown} | {text} |"
        for name in names:
            del defaults[name]
    assert not defaults, f"the docstring of CircuitBreakerConfig does not describe {', '.join(defaults)}"


def _shown(default: object) -> str:
    return f"`{default.__name__}`" if isinstance(default, type) else f"`{default!r}`"


def _with_table(page: str, what: str, table: Iterator[str]) -> str:
    """Return the page with the table between the two comments that mark its place."""
    begin, end = f"<!-- {what}: written by `make docs` -->", f"<!-- end of {what} -->"
    before, _, rest = page.partition(begin)
    return before + "\n".join([begin, "", *table, "", end]) + rest.partition(end)[2]


def generated() -> dict[Path, str]:
    """Return the text that each generated file should have."""
    reference = DOCS / "reference.md"
    page = _with_table(reference.read_text(), "settings", settings())
    pages = {reference: _with_table(page, "options", options())}
    plots = {DOCS / "plots" / f"{algorithm}.svg": plot(algorithm) for algorithm in get_args(Algorithm)}
    return pages | plots


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
