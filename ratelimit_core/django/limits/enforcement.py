"""Enforce a limit before a view: one function for ordinary views, and one for asynchronous views."""

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
"""The question to the limiter, the decision, and the refusal. Each of the three may be None.

Without a question, the request is not limited, or is denied without asking the limiter.
"""


def ask(limit: ViewLimit, request: Any, scope: str, sender: Any) -> Passage:
    """Ask the limiter about ``request``, send the signal, and set ``request.rate_limit_exceeded``.

    Costs at most one round trip.
    """
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
    """Do what :func:`ask` does without blocking the event loop."""
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
    """Return the response of the view, or an error response if the request is denied. The view runs at most once.

    Costs at most one round trip, and one more to release the lease of a concurrency limit.
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
    """Do what :func:`run` does without blocking the event loop. A cancelled call releases the lease too."""
    question, decision, refusal = await aask(limit, request, scope, sender)
    if refusal is not None:
        return await in_loop(limit.respond, request, refusal)
    if question is None or decision is None or not (limit.holds_place and decision.allowed):
        response = await awaited(view(*args, **kwargs))
    else:
        (limiter, _, _), key, _ = question
        try:
            response = await awaited(view(*args, **kwargs))
        except GeneratorExit:  # a closed coroutine can't await a release; the lease ends by itself
            raise
        except BaseException:
            await asyncio.shield(limiter.arelease(decision, key=key))
            raise
        if not _released_on_close(request, question, decision, response):
            await asyncio.shield(limiter.arelease(decision, key=key))
    headers.show(request, response)
    return response


def _released_on_close(request: Any, question: Question, decision: Decision, response: Any) -> bool:
    """Have a streaming response release the lease when it is closed. Return False for other responses.

    Servers close a response in a thread, where the release may block. Closing the request releases the lease too: if a
    middleware replaces the response, for example with a 304, the view's response is never closed. Django closes the
    request with the response that it sends.
    """
    if not getattr(response, "streaming", False):
        return False
    held = [decision]
    (limiter, _, _), key, _ = question

    def release() -> None:
        with suppress(IndexError):  # the lease is already released
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
