"""The output of the demo: a live table on a terminal, otherwise a line every two seconds."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Self, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from example_worker.outage import Sample
from example_worker.report import Check, Figures
from example_worker.tasks import CALLS_PER_SECOND

T = TypeVar("T", Sample, Figures)

LINE_EVERY = 2.0  # seconds between lines without a terminal
BARS = "▁▂▃▄▅▆▇█"
STYLES = {"up": "green", "closed": "green", "half_open": "yellow", "open": "bold red", "down": "bold red"}


class Board:
    """A display of the latest sample of each pass."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._samples: dict[str, Sample] = {}
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, sample: Sample) -> None:
        if sample.name not in self._samples:
            self._next_line = 0.0
        self._samples[sample.name] = sample
        if self._live:
            samples = self._samples.values()
            self._live.update(Group(live_table(samples), *charts(samples)), refresh=True)
        elif sample.elapsed >= self._next_line:
            self._next_line = sample.elapsed + LINE_EVERY
            self._console.print(line(sample), soft_wrap=True, highlight=False)


def line(sample: Sample) -> str:
    """Return a sample as one line."""
    stats = sample.stats
    return (
        f"{sample.name:<7} {sample.elapsed:4.1f} s | {stats['mode']:<4} | breaker {sample.breaker:<20}"
        f" | done {sample.done:>3}, waiting {sample.waiting:>3}, lost {sample.lost:>3}"
        f" | calls {stats['calls']:>3}, in the outage {sample.outage_calls:>3},"
        f" in the last second {stats['last_second']:>2}"
    )


def live_table(samples: Collection[Sample]) -> Table:
    """Return the latest samples side by side."""
    return side_by_side(
        samples,
        {
            "seconds": lambda sample: f"{sample.elapsed:.0f}",
            "payment service": lambda sample: styled(sample.stats["mode"]),
            "circuit breaker": lambda sample: styled(sample.breaker),
            "orders done": lambda sample: f"{sample.done} of {sample.orders}",
            "orders waiting": lambda sample: str(sample.waiting),
            "orders lost": lambda sample: Text(str(sample.lost), "bold red" if sample.lost else ""),
            "calls that reached the service": lambda sample: str(sample.stats["calls"]),
            "  in the outage": lambda sample: str(sample.outage_calls),
            "  in the last second": lambda sample: str(sample.stats["last_second"]),
        },
    )


def comparison(passes: Collection[Figures]) -> Table:
    """Return the results of the passes side by side."""
    return side_by_side(
        passes,
        {
            "orders completed": lambda figures: f"{figures.completed} of {figures.orders}",
            "orders lost": lambda figures: Text(str(figures.lost), "bold red" if figures.lost else ""),
            "orders charged twice": lambda figures: str(figures.twice),
            "retries spent": lambda figures: str(figures.retries),
            "calls in the outage": lambda figures: str(figures.outage_calls),
            "calls in the busiest second": lambda figures: str(figures.busiest_second),
            "seconds until drained": lambda figures: f"{figures.drained_after:.1f}",
            "  ideal: orders left / limit": lambda figures: f"{figures.ideal:.1f}",
            "visits in the outage": lambda figures: str(figures.visits),
            "  that got no Retry-After": lambda figures: str(figures.visits_failed),
            "  that got Retry-After": lambda figures: str(figures.visits_saved),
            "  median answer": lambda figures: f"{figures.visit * 1000:.0f} ms",
        },
    )


def charts(samples: Iterable[Sample]) -> Iterator[Text]:
    """Yield a chart of each sample with a bar for each second: red in the outage, yellow above the limit."""
    yield Text(f"calls in each second; red: outage, yellow: above {CALLS_PER_SECOND}", "dim")
    highest = max(CALLS_PER_SECOND, *(max(sample.stats["per_second"]) for sample in samples))
    for sample in samples:
        chart = Text(f"{sample.name:>8} ")
        for second, calls in enumerate(sample.stats["per_second"]):
            height = -(-calls * len(BARS) // highest)
            above = "yellow" if calls > CALLS_PER_SECOND else "green"
            chart.append(f" {BARS}"[height], "red" if sample.in_outage(second) else above)
        yield chart


def verdict(check: Check) -> Text:
    """Return a check as one line, and a second line that explains the bound."""
    outcome = ("kept   ", "green") if check.kept else ("FAILED ", "bold red")
    says = f"{check.what}: {check.number}, at most {check.bound.total}"
    return Text.assemble(outcome, says, (f"\n       {check.bound}" if check.bound.parts else "", "dim"))


def side_by_side(passes: Collection[T], rows: dict[str, Callable[[T], str | Text]]) -> Table:
    table = Table("")
    for each in passes:
        table.add_column(each.name, justify="right", min_width=20)
    for label, cell in rows.items():
        table.add_row(label, *(cell(each) for each in passes))
    return table


def styled(state: str) -> Text:
    return Text(state, STYLES.get(state.partition(",")[0], "dim"))
