"""How a task waits: published again for later, as the same task, without spending a retry."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Reject, Retry

from ratelimit_core.errors import ResilienceError
from ratelimit_core.limits import Decision

from .settings import longest_countdown

if TYPE_CHECKING:
    from celery import Task

HEADER = "resilience"
"""The message header in which a waiting task carries what it needs to know of its wait."""


class WaitedTooLong(ResilienceError):
    """A task gave up waiting: ``max_wait`` or ``max_deferrals`` was reached."""


class NotDeferred(ResilienceError):
    """A task had to wait, but publishing it for later failed: it ends here, and is not in the queue any more."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a waiting task carries.

    Attributes:
        deferrals: how often it was put off.
        since: when it was put off first, in seconds since the epoch; 0 if never.
        slot: its reserved slot of a limit, as (which limit, ticket, cost).
    """

    deferrals: int = 0
    since: float = 0.0
    slot: tuple[int, str, int] | None = None

    @classmethod
    def of(cls, headers: Mapping[str, Any] | None) -> Waiting:
        """Read the header. What others may have written into it is not trusted: nonsense counts as nothing."""
        header = (headers or {}).get(HEADER)
        if not isinstance(header, Mapping):
            return cls()
        deferrals, since, slot = header.get("deferrals"), header.get("since"), header.get("slot")
        now = time.time()
        return cls(
            deferrals=deferrals if isinstance(deferrals, int) and 0 <= deferrals < 1_000_000_000 else 0,
            since=min(float(since), now) if isinstance(since, int | float) and since > 0 else 0.0,
            slot=_slot(slot),
        )

    def header(self) -> dict[str, Any]:
        """The header's value."""
        return {
            "deferrals": self.deferrals,
            "since": self.since,
            "slot": list(self.slot) if self.slot else None,
        }

    def left(self, max_wait: float, max_deferrals: int | None) -> float:
        """For how many seconds it may be put off now; negative if it may not be put off again."""
        if max_deferrals is not None and self.deferrals >= max_deferrals:
            return -1.0
        return max_wait - self.waited

    @property
    def waited(self) -> float:
        """The seconds since it was put off first."""
        return time.time() - self.since if self.since else 0.0

    def decision(self) -> Decision | None:
        """The reserved slot, as the limiter that gave it knows it."""
        if self.slot is None:
            return None
        which, ticket, cost = self.slot
        return Decision(True, 0, 0, 0.0, 0.0, ticket=ticket, which=which, cost=cost)


def _slot(value: object) -> tuple[int, str, int] | None:
    match value:
        case [int() as which, str() as ticket, int() as cost] if 0 <= which < 100 and len(ticket) <= 200 and cost > 0:
            return which, ticket, cost
    return None


def put_off(
    task: Task[..., Any],
    reason: ResilienceError,
    countdown: float,
    *,
    max_wait: float,
    max_deferrals: int | None,
    slot: Decision | None = None,
    args: Any = None,
    kwargs: Any = None,
    options: Mapping[str, Any] | None = None,
) -> NoReturn:
    """Publish ``task``'s current message again, to run in ``countdown`` seconds, and leave by ``Retry``.

    It stays the same task: id, retries, headers, canvas and result are kept. A countdown beyond what the
    broker can hold is cut; the task then waits again on waking.

    Raises:
        Retry: always, if all goes well. Its ``exc`` is ``reason``, which is what Flower shows.
        WaitedTooLong: it has waited long or often enough.
        Reject: publishing failed; the message is delivered again, since it is acknowledged late.
        NotDeferred: publishing failed, and the message is acknowledged already.
    """
    request = task.request
    waiting = Waiting.of(request.headers)
    if countdown > waiting.left(max_wait, max_deferrals):
        raise WaitedTooLong(
            f"gave up after waiting {waiting.waited:.0f} s in {waiting.deferrals} deferrals "
            f"(max_wait={max_wait:g} s, max_deferrals={max_deferrals}): {reason!r}"
        ) from reason
    countdown = min(max(countdown, 0.0), longest_countdown(task.app))
    # A slot that was used already is just a name: redeeming it is a hit like any other.
    held = (slot.which, slot.ticket, slot.cost) if slot is not None else waiting.slot
    header = Waiting(waiting.deferrals + 1, waiting.since or time.time(), held).header()
    options = dict(options or {})
    headers = options.pop("headers", None) or request.as_execution_options()["headers"] or {}
    if args is None and kwargs is None:  # how they are shown, which may hide what they are
        options = {"argsrepr": request.get("argsrepr"), "kwargsrepr": request.get("kwargsrepr"), **options}
    signature = task.signature_from_request(
        request,
        *_merged(task, args, kwargs),
        countdown=countdown,
        retries=request.retries,
        headers={**headers, HEADER: header},
        **options,
    )
    try:
        signature.apply_async()
    except Exception as error:
        if task.acks_late:
            time.sleep(random.uniform(0.5, 1.0))  # the broker is in trouble: don't spin on the redelivery
            raise Reject(error, requeue=True) from error
        raise NotDeferred(f"could not be published for later: {error!r}; it waited because of {reason!r}") from error
    when: Any = countdown  # typed as numbers.Real, which no checker knows a float to be
    raise Retry(exc=reason, when=when, sig=signature) from reason


def _merged(task: Task[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments to go on with: what is not given anew stays, as in Celery's ``retry()``."""
    request = task.request
    if kwargs is None and args is not None:
        given = list(inspect.signature(task.run).parameters)[: len(args)]
        kwargs = {name: value for name, value in (request.kwargs or {}).items() if name not in given}
    elif args is None and kwargs is not None:
        bound = inspect.signature(task.run).bind_partial(*(request.args or ()))
        kwargs = dict(kwargs)
        for name in bound.arguments.keys() & kwargs.keys():
            bound.arguments[name] = kwargs.pop(name)
        args, kwargs = bound.args, {**bound.kwargs, **kwargs}
    return args, kwargs
