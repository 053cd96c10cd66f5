"""A decorated Django view: the CPU time that limits and a breaker add."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import cycle
from typing import Any

from .. import report
from ..limiters import LIMIT
from ..measure import Call, Contender, Pace, Role, take_turns
from ..stage import Server, django, valkey

TITLE = "A Django view"
BARE = "the view alone"
MEMORY, REDIS = ", memory", ", Redis"
OURS = "resilient-tasks"

View = Callable[[Any], Any]


def run(pace: Pace) -> report.Report:
    with valkey() as server:
        django(server)
        views = _views(server)
        contenders = [Contender(name, _requested(view), role) for name, (view, role) in views.items()]
        samples = take_turns(contenders, pace)
        asked = {}
        for each in contenders:
            if not each.name.endswith(REDIS):
                continue
            counted = server.counted(each.call, 500)
            asked[each.name] = counted.commands / 500, counted.busy / 500
    found = report.figures(contenders, samples, BARE, asked)
    added = {each.name: each.added.median for each in found if each.added}
    peers = [each.name for each in found if each.role == "peer"]
    floor = report.Best(BARE, found[0].cpu.median)
    rows = [
        report.Row(
            f"Django view with a limit in {kind.strip(', ')}: CPU added",
            "µs",
            ours=added[OURS + kind],
            target=target,
            peers=[report.least(added, [name for name in peers if name.endswith(kind)])],
            floor=floor,
        )
        for kind, target in ((MEMORY, 20), (REDIS, 20 + 75))
    ]
    return report.Report(rows, {TITLE: found})


def _views(server: Server) -> dict[str, tuple[View, Role]]:
    from django.http import HttpRequest, HttpResponse
    from django_ratelimit.decorators import ratelimit
    from django_smart_ratelimit import rate_limit as smart_rate_limit

    from ratelimit_core import rate_limit
    from ratelimit_core.backends import MemoryBackend, RedisBackend
    from ratelimit_core.circuit_breaker import circuit_breaker

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    rate = f"{LIMIT}/s"
    memory, redis = MemoryBackend(), RedisBackend(server.url)
    return {
        BARE: (view, "floor"),
        f"django-smart-ratelimit{MEMORY}": (smart_rate_limit(key="ip", rate=rate, backend="memory")(view), "peer"),
        f"django-smart-ratelimit{REDIS}": (smart_rate_limit(key="ip", rate=rate, backend="redis")(view), "peer"),
        f"django-ratelimit{REDIS}": (ratelimit(key="ip", rate=rate)(view), "peer"),
        f"{OURS}{MEMORY}": (rate_limit("ip", rate, backend=memory, scope="memory")(view), "ours"),
        f"{OURS}{REDIS}": (rate_limit("ip", rate, backend=redis, scope="redis")(view), "ours"),
        f"{OURS}, token bucket{MEMORY}": (
            rate_limit("ip", rate, backend=memory, algorithm="token_bucket", scope="bucket")(view),
            "ours",
        ),
        f"{OURS} breaker{REDIS}": (circuit_breaker("view", backend=redis)(view), "ours"),
    }


def _requested(view: View) -> Call:
    """Return a function that calls ``view`` with a new request from the next of a hundred addresses."""
    from django.core.handlers.wsgi import WSGIRequest
    from django.test import RequestFactory

    environ = RequestFactory()._base_environ()  # type: ignore[attr-defined] # the base of its requests
    following = cycle([f"10.0.0.{number}" for number in range(100)]).__next__

    def call() -> object:
        request = WSGIRequest({**environ, "wsgi.input": BytesIO(), "REMOTE_ADDR": following()})
        return view(request)

    return call
