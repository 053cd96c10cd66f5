"""``celery resilience watch``: show the whole fleet live on a terminal."""

from __future__ import annotations

import heapq
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import chain

from ratelimit_core._util.suggest import missing_extra
from ratelimit_core._util.text import printable, span
from ratelimit_core.fleet.describe import probe_of, word_of
from ratelimit_core.fleet.status import Fleet, look
from ratelimit_core.fleet.usage import LimitInUse

try:
    from rich.cells import cell_len, set_cell_size
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text
except ImportError as error:
    raise missing_extra(__name__, "cli", error) from None

_STYLES = {"open": "bold red", "half_open": "yellow", "closed": "green"}
_MOST = 5  # the maximum number of limits, and of events, so that there is room for the breakers
_NAMES = 12  # the minimum number of columns for a name

Keys = Callable[[float], str]


def watch(every: float) -> None:
    """Show the fleet every ``every`` seconds until ``q`` or Ctrl-C. Without a terminal, print lines."""
    console = Console()
    if not console.is_terminal:
        while True:
            console.print(board(look(), "", 120, None), soft_wrap=True)
            time.sleep(every)
    for signum in (signal.SIGTERM, signal.SIGHUP):  # exit through every `finally`, which restores the terminal
        signal.signal(signum, lambda signum, _: sys.exit(128 + signum))
    fleet, stale = look(), ""
    with (
        suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            live.update(board(fleet, stale, *console.size), refresh=True)
            if pressed(every) == "q":
                return
            seen = look()
            if not seen.unavailable:
                fleet, stale = seen, ""
            elif fleet.unavailable:
                fleet = seen
            else:  # keep showing the last state
                since = _clock(time.time())
                stale = stale or f"the store is unavailable; the state shown is from {since}: {seen.unavailable}"


def _asleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Keys]:
    """Yield a function that waits for a key, for a number of seconds at most. Keys are not echoed meanwhile."""
    if not sys.stdin.isatty():
        yield _asleep
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return (os.read(terminal, 1).decode("latin-1").lower() or "q") if ready else ""  # no data: the input was closed

    tty.setcbreak(terminal)
    try:
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def board(fleet: Fleet, stale: str, width: int, height: int | None) -> Text:
    """Return the board in ``width`` columns and ``height`` lines. The board needs no colours to be understood."""
    style = "bold red" if fleet.unavailable or stale or "open" in fleet.headline() else "bold"
    top = [
        Text(fleet.headline(), style),
        Text(f"{_clock(time.time())}, all breakers and limits of the fleet; press q to end"),
    ]
    if fleet.unavailable or stale:
        top.append(Text(printable(stale or f"each process decides alone: {fleet.unavailable}"), "red"))
    below = [*_limits(fleet.limits, width), *_events(fleet)]
    room = None if height is None else height - len(top) - len(below)
    lines = [*top, *_breakers(fleet, width, room), *below]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _breakers(fleet: Fleet, width: int, room: int | None) -> Iterator[Text]:
    """Yield the lines of the breakers, the worst first, as many as fit."""
    if not fleet.breakers:
        return
    names = {name: printable(name) for name in fleet.breakers}
    column = _column([*names.values(), "breaker"], width - 52)
    yield Text()
    yield Text(f"{_fit('breaker', column)}  state      since     failures  next probe  waiting", "dim")
    left = len(names)
    room = left * 2 if room is None else room - 3  # the empty line, the heading, and the last line
    for name in fleet.worst_first():
        status, word = fleet.breakers[name], printable(word_of(fleet.breakers[name]))
        room -= 2 if word else 1
        if room < 0:
            yield Text(f"and {left} more, which are less urgent", "dim")
            return
        left -= 1
        threshold = status["failure_threshold"]
        failures = str(status["failure_count"]) + ("" if threshold is None else f"/{threshold}")
        line = Text(f"{_fit(names[name], column)}  ")
        line.append(f"{status['state'].replace('_', '-'):<9}", _STYLES[status["state"]])
        probe, waiting = probe_of(status) or "-", fleet.waiting.get(name) or "-"
        line.append(f"  {_clock(fleet.since(name)):<8}  {failures:>8}  {probe:>10}  {waiting:>7}")
        yield line
        if word:
            yield Text(f"  {word}", "magenta")


def _limits(limits: list[LimitInUse], width: int) -> Iterator[Text]:
    """Yield the lines of the limits, the fullest first."""
    shown = [(f"{printable(limit.key)} {limit.limit}", limit) for limit in limits[:_MOST]]
    if not shown:
        return
    column = _column([*(label for label, _ in shown), "limit"], width - 35)
    yield Text()
    yield Text(f"{_fit('limit', column)}  {'used':>15}  room in", "dim")
    for label, limit in shown:
        full = limit.used >= limit.allowance
        wait = span(limit.retry_after) if limit.retry_after >= 0.5 else "-"
        used = f"{limit.used} of {limit.allowance}"
        yield Text(f"{_fit(label, column)}  {used:>15}  {wait}", "bold" if full else "")


def _events(fleet: Fleet) -> Iterator[Text]:
    """Yield the lines of the latest events, newest first."""
    last = heapq.nlargest(_MOST, chain(*fleet.histories.values()), key=lambda entry: float(entry["at"]))
    if last:
        yield Text()
        yield Text("latest events", "dim")
    for entry in last:
        event = entry["event"].replace("_", " ") + (" in shadow mode" if entry["shadow"] else "")
        said = f" by {entry['author']}" if entry["author"] else ""
        why = f": {entry['reason']}" if entry["reason"] else ""
        yield Text(printable(f"{_clock(entry['at'])}  {entry['name']} {event}{said}{why}"))


def _column(texts: list[str], most: int) -> int:
    return max(_NAMES, min(most, max(map(cell_len, texts))))


def _fit(text: str, columns: int) -> str:
    return set_cell_size(text if cell_len(text) <= columns else set_cell_size(text, columns - 1) + "…", columns)


def _clock(seconds: float | None) -> str:
    """Return the time of day, or the date if the time is not today."""
    if seconds is None:
        return "-"
    moment = datetime.fromtimestamp(seconds)
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.now().date() else "%d %b")
