"""``celery resilience``: show the shared state of the fleet, and change it."""

from __future__ import annotations

import getpass
import json as json_module
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from ratelimit_core._util.text import printable
from ratelimit_core.fleet.describe import word_of

from ..worker import commands  # noqa: F401 - so that `celery inspect` and `celery control` know the commands


@click.group()
@click.pass_context
def resilience(context: click.Context) -> None:
    """Show and change the circuit breakers and limits that the whole fleet shares."""
    app = context.obj.app
    app.set_current()
    app.finalize()
    app.loader.import_default_modules()  # these modules define the breakers, with their settings


@resilience.command()
@click.option("--json", is_flag=True, help="Print JSON, for programs.")
def status(json: bool) -> None:
    """Show every breaker that the store lists: state, failures, next probe, and manual override."""
    with _store_errors():
        found = _statuses()
    if json:
        click.echo(json_module.dumps(found, indent=2, sort_keys=True))
    elif not found:
        click.echo("The store lists no breaker yet: a breaker appears with its first call.")
    else:
        for line in _table(found):
            click.echo(line)


@resilience.command()
@click.option("--every", default=1.0, show_default=True, help="Seconds between two updates.")
def watch(every: float) -> None:
    """Show the whole fleet, live: breakers, limits in use and the latest events, until q or Ctrl-C."""
    try:
        from .watch import watch as show
    except ImportError as error:
        raise click.ClickException(str(error)) from None
    show(every)


_SAID: list[Callable[[Any], Any]] = [
    click.option("--author", default=getpass.getuser, help="Your name in the history; by default your user name."),
    click.option("--reason", default="", help="The reason, for the history."),
]


def _said(function: Any) -> Any:
    for option in _SAID:
        function = option(function)
    return click.argument("name")(function)


@resilience.command()
@_said
@click.option("--ttl", type=float, help="End the override after this many seconds.")
def open(name: str, author: str, reason: str, ttl: float | None) -> None:
    """Reject every call of breaker NAME, in the whole fleet."""
    with _store_errors():
        _breaker(name).force_open(author, reason, ttl)
    click.echo(f"{name} rejects every call{_for(ttl)}")


@resilience.command()
@_said
@click.option("--ttl", type=float, help="End the override after this many seconds.")
def close(name: str, author: str, reason: str, ttl: float | None) -> None:
    """Permit every call of breaker NAME, in the whole fleet, even if all calls fail."""
    with _store_errors():
        _breaker(name).force_closed(author, reason, ttl)
    click.echo(f"{name} permits every call{_for(ttl)}")


@resilience.command()
@_said
def reset(name: str, author: str, reason: str) -> None:
    """Close breaker NAME, end its manual override, and forget all counts."""
    with _store_errors():
        _breaker(name).reset(author, reason)
    click.echo(f"{name} is reset")


@resilience.command()
@click.argument("name")
def history(name: str) -> None:
    """Show the history of breaker NAME, newest first."""
    with _store_errors():
        entries = _breaker(name).history()
    for entry in entries:
        said = " ".join(printable(part) for part in (entry["author"], entry["reason"]) if part)
        wait = f"next probe in {entry['retry_after']:g} s" if entry["event"] == "opened" else ""
        click.echo(f"{_moment(entry['at'])}  {entry['event']:<14} {wait}{said}".rstrip())
    if not entries:
        click.echo(f"the store has no history of {name!r}")


@resilience.command()
@click.argument("queue")
@click.option("--limit", type=click.IntRange(1), help="Bring back at most this many tasks.")
@click.pass_context
def replay(context: click.Context, queue: str, limit: int | None) -> None:
    """Bring tasks that gave up waiting back from their dead-letter QUEUE."""
    from ..execution.dead_letters import replay as bring_back

    count = 0
    for task, task_id in bring_back(context.obj.app, queue, limit):
        click.echo(printable(f"{task}[{task_id}]"))
        count += 1
    click.echo(f"{count} {'task' if count == 1 else 'tasks'} brought back from {queue}")


def _breaker(name: str) -> Any:
    from ratelimit_core.circuit_breaker import CircuitBreaker

    return CircuitBreaker(name)


def _statuses() -> dict[str, dict[str, Any]]:
    from ratelimit_core.circuit_breaker import circuit_breaker_registry

    found: dict[str, dict[str, Any]] = circuit_breaker_registry.get_fleet_status()
    return found


@contextmanager
def _store_errors() -> Iterator[None]:
    from ratelimit_core.errors import ResilienceError

    try:
        yield
    except ResilienceError as error:
        raise click.ClickException(str(error)) from None


def _table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    shown = {name: printable(name) for name in found}
    width = max(map(len, [*shown.values(), "breaker"]))
    yield f"{'breaker':<{width}}  {'state':<9}  {'failures':>8}  {'next probe':<10}  {'since':<19}  override"
    for name, each in sorted(found.items()):
        threshold = each["failure_threshold"]
        failures = f"{each['failure_count']}/{threshold}" if threshold is not None else str(each["failure_count"])
        next_attempt = each["next_attempt_time"]
        probe = f"{max(0.0, next_attempt - time.time()):.1f} s" if next_attempt is not None else "-"
        word = printable(word_of(each))
        since = _moment(each["changed_at"])
        yield f"{shown[name]:<{width}}  {each['state']:<9}  {failures:>8}  {probe:<10}  {since:<19}  {word}".rstrip()


def _moment(seconds: float | None) -> str:
    return "-" if not seconds else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _for(ttl: float | None) -> str:
    return "" if ttl is None else f" for {ttl:g} s"
