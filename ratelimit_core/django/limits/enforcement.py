"""How a request passes a limit on its way to the view: once for ordinary views, and once for asynchronous ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..._util.aio import awaited
from ...limiter import Decision
from ..signals import asend, rate_limit_allowed, rate_limit_denied, send
from . import headers
from .callbacks import in_loop
from .responses import Refusal
from .view_limit import Question, ViewLimit, plain

View = Callable[..., Any]


Passage = tuple[Question | None, Decision | None, Refusal | None]
"""What was asked for a request, what was decided, and what keeps it from its view. Without a question it is not
limited, or refused unasked."""


def ask(limit: ViewLimit, request: Any, scope: str, sender: Any) -> Passage:
    """Ask for ``request``, and tell the signals and ``request.rate_limit_exceeded``. One round trip at most."""
    inner = plain(request)
    question = limit.question(request, scope)
    if question is None or isinstance(question, Refusal):
        return None, None, limit.refuses(inner, question)
    limited, key, cost = question
    decision = limited.limiter.hit(cost, key=key)
    signal = rate_limit_allowed if decision.allowed else rate_limit_denied
    if signal.receivers:
        send(signal, sender, **limit.told(inner, scope, key, decision))
    return question, decision, limit.answered(inner, question, decision)


async def aask(limit: ViewLimit, request: Any, scope: str, sender: Any) -> Passage:
    """:func:`ask` without blocking the event loop."""
    inner = plain(request)
    question = await in_loop(limit.question, request, scope)
    if question is None or isinstance(question, Refusal):
        return None, None, limit.refuses(inner, question)
    limited, key, cost = question
    decision = await limited.limiter.ahit(cost, key=key)
    signal = rate_limit_allowed if decision.allowed else rate_limit_denied
    if signal.receivers:
        await asend(signal, sender, **limit.told(inner, scope, key, decision))
    return question, decision, limit.answered(inner, question, decision)


def run(limit: ViewLimit, view: View, request: Any, scope: str, sender: Any, args: Any, kwargs: Any) -> Any:
    """The view's response, or the refusal's. The view runs once at most, whatever it raises.

    One round trip; one more if a limit on how many run at a time is to be told that this one has ended.
    """
    question, decision, refusal = ask(limit, request, scope, sender)
    if refusal is not None:
        return limit.respond(request, refusal)
    if question is None or decision is None or not (limit.holds_place and decision.allowed):
        response = view(*args, **kwargs)
    else:
        (limiter, _, _), key, _ = question
        try:
            response = view(*args, **kwargs)
        except BaseException:
            limiter.release(decision, key=key)
            raise
        if not _released_on_close(request, question, decision, response):
            limiter.release(decision, key=key)
    headers.show(request, response)
    return response


async def arun(limit: ViewLimit, view: View, request: Any, scope: str, sender: Any, args: Any, kwargs: Any) -> Any:
    """:func:`run` without blocking the event loop. Cancelled, it gives back the place to run."""
    question, decision, refusal = await aask(limit, request, scope, sender)
    if refusal is not None:
        return await in_loop(limit.respond, request, refusal)
    if question is None or decision is None or not (limit.holds_place and decision.allowed):
        response = await awaited(view(*args, **kwargs))
    else:
        (limiter, _, _), key, _ = question
        try:
            response = await awaited(view(*args, **kwargs))
        except GeneratorExit:  # closed, and may not await: the place is free again after its time
            raise
        except BaseException:
            await asyncio.shield(limiter.arelease(decision, key=key))
            raise
        if not _released_on_close(request, question, decision, response):
            await asyncio.shield(limiter.arelease(decision, key=key))
    headers.show(request, response)
    return response


def _released_on_close(request: Any, question: Question, decision: Decision, response: Any) -> bool:
    """Have a response that is still to be sent give the place back when it is closed, which servers do in a thread.

    So does the request, which Django closes with whatever response is sent in the end: one that a middleware has put
    in the place of the view's, a 304 say, leaves that one unclosed.
    """
    if not getattr(response, "streaming", False):
        return False
    held = [decision]
    (limiter, _, _), key, _ = question

    def release() -> None:
        with suppress(IndexError):  # given back already
            limiter.release(held.pop(), key=key)

    closed: tuple[Any, ...] = (response, plain(request))
    for each in closed:
        each.close = _then(each.close, release)
    return True


def _then(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        try:
            first()
        finally:
            second()

    return both
