"""Functions that may stand in ``RATELIMIT_RESPONSE_HANDLER``, and some that may not."""

from __future__ import annotations

from django.http import HttpResponse


def of_nothing() -> HttpResponse:
    return HttpResponse()


def of_one(request: object) -> HttpResponse:
    return HttpResponse()


def of_two(request: object, refusal: object) -> HttpResponse:
    return HttpResponse()


def of_three(request: object, refusal: object, more: object) -> HttpResponse:
    return HttpResponse()


async def asynchronous(request: object) -> HttpResponse:
    return HttpResponse()
