"""Defer a task: publish it again, to run later."""

from __future__ import annotations

import inspect
import math
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from celery.canvas import Signature
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import task_revoked
from celery.utils.time import maybe_iso8601, maybe_make_aware

from ratelimit_core.errors import ResilienceError
from ratelimit_core.limiter import Decision

from ..queues import queue_of, safe_countdown, was_delayed_natively
from ..signals import task_deferred

if TYPE_CHECKING:
    from celery import Task
from .wait_header import HEADER, SOON, Waiting


class MaxWaitExceeded(ResilienceError):
    """A task gave up waiting, because it reached ``max_wait`` or ``max_deferrals``."""


class DeferralFailed(ResilienceError):
    """A task had to wait, but publishing it for later failed. It ends here, and is not in the queue any more."""


def put_off(
    task: Task[..., Any],
    reason: ResilienceError,
    countdown: float,
    *,
    slot: Decision | None = None,
    at_least: float = 0.0,
    args: Any = None,
    kwargs: Any = None,
    options: Mapping[str, Any] | None = None,
) -> NoReturn:
    """Publish ``task``'s current message again, to run in ``countdown`` seconds, and raise ``Retry``.

    It stays the same task: id, retries, headers, canvas and result are kept. A countdown beyond what the
    broker can hold is cut: on waking the task asks again, but not before ``at_least`` seconds from now. One that
    expires earlier wakes to be revoked, so that no worker holds it for longer.

    Raises:
        Retry: always, if all goes well. Its ``exc`` is ``reason``, which is what Flower shows.
        Reject: publishing failed; the message is delivered again, since it is acknowledged late.
        DeferralFailed: publishing failed, and the message is acknowledged already.
        Ignore: it has expired, and ends as revoked.
    """
    request = task.request
    waiting = Waiting.of(request.headers)
    good_for = until_it_expires(request)
    if good_for <= 0:
        _revoke(task)
    countdown = safe_countdown(task.app, min(countdown, good_for + SOON))  # a moment more: it has expired then
    until = time.time() + at_least if at_least > countdown else 0.0
    # A slot that was used already is just a name: redeeming it is a hit like any other.
    held = (slot.denied_by, slot.lease_id, slot.cost) if slot is not None else waiting.slot
    waiting = Waiting(waiting.deferrals + 1, waiting.waited + max(countdown, at_least), held, until)
    _leave(task, _again(task, waiting, countdown, args, kwargs, options), reason, countdown)


def until_it_expires(request: Any) -> float:
    """Return the seconds until the message expires; negative if it has expired."""
    expires = maybe_iso8601(request.expires)
    return math.inf if expires is None else maybe_make_aware(expires).timestamp() - time.time()


def late_by(request: Any) -> float:
    """Return by how many seconds the message is late; negative if its time has not come."""
    due = maybe_iso8601(request.eta)
    return 0.0 if due is None else time.time() - maybe_make_aware(due).timestamp()


def _revoke(task: Task[..., Any]) -> NoReturn:
    """End a task that expired while it waited for its pool, as its worker ends tasks that expired earlier."""
    request: Any = task.request
    task.backend.mark_as_revoked(request.id, "expired", request=request, store_result=not task.ignore_result)
    task_revoked.send(sender=task, request=request, terminated=False, signum=None, expired=True)
    raise Ignore


def hold_back(task: Task[..., Any]) -> None:
    """Defer the current message again if its time has not come: the broker could not hold it so long.

    Raises:
        As :func:`put_off`.
    """
    waiting = Waiting.of(task.request.headers)
    early = waiting.too_early
    if early:
        countdown = safe_countdown(task.app, early)
        _leave(task, _again(task, waiting, countdown), NotYet(f"its time comes in {early:.0f} s"), countdown)


class NotYet(ResilienceError):
    """The time of a task has not come. It waits in parts, each as long as the broker can hold it."""


def in_parts(task: Task[..., Any], countdown: float, options: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return a countdown that the broker can hold, and options to publish with that keep the whole wait."""
    safe = safe_countdown(task.app, countdown)
    changed = dict(options)
    if safe < countdown:
        waiting = replace(Waiting.of(task.request.headers), until=time.time() + countdown)
        changed["headers"] = {**_headers(task, options), HEADER: waiting.header()}
    return safe, _well_routed(task, changed)


def _again(
    task: Task[..., Any],
    waiting: Waiting,
    countdown: float,
    args: Any = None,
    kwargs: Any = None,
    options: Mapping[str, Any] | None = None,
) -> Signature[Any]:
    """Return the current message, to be published again."""
    request = task.request
    options = dict(options or {})
    options["headers"] = {**_headers(task, options), HEADER: waiting.header()}
    if args is None and kwargs is None:  # how they are shown, which may hide what they are
        options = {"argsrepr": request.get("argsrepr"), "kwargsrepr": request.get("kwargsrepr"), **options}
    return task.signature_from_request(
        request,
        *_merged(task, args, kwargs),
        countdown=countdown,
        retries=request.retries,
        **_well_routed(task, options),
    )


def _headers(task: Task[..., Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    return options.get("headers") or task.request.as_execution_options()["headers"] or {}


def _well_routed(task: Task[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Route a message that RabbitMQ delayed by its queue's name: the exchange that it names is only the delay's."""
    delivery = task.request.delivery_info
    if was_delayed_natively(delivery) and not options.keys() & {"queue", "exchange", "routing_key"}:
        return {"queue": queue_of(task.app, delivery), **options}
    return options


def not_published(task: Task[..., Any], error: Any, reason: object) -> Exception:
    """Return the exception to raise if deferring fails: ``Reject`` if the broker can deliver the message again."""
    if task.acks_late:
        time.sleep(random.uniform(0.5, 1.0))  # the broker is in trouble: don't spin on the redelivery
        return Reject(error, requeue=True)
    return DeferralFailed(f"could not be published for later: {error!r}; it waited because of {reason!r}")


def publish(message: Signature[Any]) -> None:
    """Publish a deferred message. :mod:`resilient_tasks.testing` replaces this function."""
    message.apply_async()


def _leave(task: Task[..., Any], again: Signature[Any], reason: ResilienceError, countdown: float) -> NoReturn:
    """Publish ``again`` and raise ``Retry``."""
    try:
        publish(again)
    except Exception as error:
        raise not_published(task, error, reason) from error
    task_deferred.send(sender=task, request=task.request, reason=reason, countdown=countdown)
    when: Any = countdown  # typed as numbers.Real, which no checker knows a float to be
    raise Retry(exc=reason, when=when, sig=again) from reason


def _merged(task: Task[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments of the next run. Those that are not replaced stay, as in Celery's ``retry()``."""
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
