"""A check of each library's limiter, used as the documentation of that library shows, and the floors.

Each limiter allows 10,000 a second for each of 100 keys, which take turns. So no check is denied, and limiters that
keep a log hold one second of a busy client.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any

from .measure import Call, Role
from .stage import Server

LIMIT = 10_000
_contenders = count()


@dataclass(frozen=True, slots=True)
class Limiter:
    """A library's limiter with one of its algorithms."""

    name: str
    make: Callable[..., Call]
    role: Role = "peer"


def _keys() -> Callable[[], str]:
    """Return a function that returns the next of 100 keys, which no other contender uses."""
    contender = next(_contenders)
    return cycle([f"client-{contender}-{number}" for number in range(100)]).__next__


def of_keys(check: Callable[[str], object]) -> Call:
    """Return a call without arguments that checks the next key."""
    following = _keys()
    return lambda: check(following())


# Floors


def lock_and_dict() -> Call:
    """Return the cheapest limiter in memory: a token bucket as one number, in a dictionary, under a lock."""
    lock, full_at = threading.Lock(), dict[str, float]()
    spacing = 1 / LIMIT

    def check(key: str) -> bool:
        with lock:
            now = time.monotonic()
            at = max(full_at.get(key, now), now) + spacing
            if at - now > 1.0:
                return False
            full_at[key] = at
            return True

    return of_keys(check)


_COUNT = """
local count = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], (tonumber(count) or 0) + 1, 'EX', 60)
return count
"""


def evalsha(server: Server) -> Call:
    """Return the cheapest script with redis-py, which reads and writes one key."""
    import redis

    client: Any = redis.Redis(port=server.port)
    sha = client.script_load(_COUNT)
    return of_keys(lambda key: client.evalsha(sha, 1, f"floor:{key}"))


def raw_evalsha(server: Server) -> Call:
    """Return the same script without a client library."""
    import redis

    client: Any = redis.Redis(port=server.port)
    sha = client.script_load(_COUNT)
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def check(key: str) -> bytes:
        key = f"raw:{key}"
        connection.sendall(f"*4\r\n$7\r\nEVALSHA\r\n$40\r\n{sha}\r\n$1\r\n1\r\n${len(key)}\r\n{key}\r\n".encode())
        return connection.recv(4096)

    return of_keys(check)


# limits


def limits(strategy: str, uri: str = "memory://", times: int = 1) -> Call:
    import limits as library
    from limits.storage import storage_from_string

    limiter = getattr(library.strategies, strategy)(storage_from_string(uri))
    item = library.parse(f"{LIMIT}/second")
    if times == 1:
        return of_keys(lambda key: limiter.hit(item, key))
    items = [library.parse(f"{LIMIT + more}/second") for more in range(times)]
    return of_keys(lambda key: all(limiter.hit(each, key) for each in items))


# throttled-py


def throttled(algorithm: str, url: str | None = None) -> Call:
    from throttled import Throttled, store

    kept: Any = store.MemoryStore() if url is None else store.RedisStore(server=url)
    throttle = Throttled(using=algorithm, quota=f"{LIMIT}/s burst {LIMIT}", store=kept)
    return of_keys(throttle.limit)


# pyrate-limiter


def pyrate(state: bool, url: str | None = None, times: int = 1) -> Call:
    """Return a token bucket if ``state``, otherwise a log. A factory makes a bucket for each key."""
    import pyrate_limiter as library
    import redis

    rates = [library.Rate(LIMIT * (more + 1), library.Duration.SECOND * (more + 1)) for more in range(times)]
    client = None if url is None else redis.Redis.from_url(url)

    def bucket(name: str) -> Any:
        if client is None:
            return library.StateBucket(rates) if state else library.InMemoryBucket(rates)
        if state:
            return library.StateBucket(rates, store=library.RedisStateStore(client, f"pyrate-state:{name}"))
        return library.RedisBucket.init(rates, client, f"pyrate:{name}")

    clock: Any = library.MonotonicClock() if client is None else library.WallClock()

    class Factory(library.BucketFactory):  # type: ignore[misc] # the library's types are not checked here
        def __init__(self) -> None:
            self.buckets = dict[str, Any]()

        def wrap_item(self, name: str, weight: int = 1) -> Any:
            return library.RateItem(name, clock.now(), weight=weight)

        def get(self, item: Any) -> Any:
            if item.name not in self.buckets:
                new = self.buckets[item.name] = bucket(item.name)
                self.schedule_leak(new)
            return self.buckets[item.name]

    limiter = library.Limiter(Factory())
    return of_keys(lambda key: limiter.try_acquire(key, blocking=False))


# django-smart-ratelimit and django-ratelimit


def smart(algorithm: str, redis: bool = False) -> Call:
    from django_smart_ratelimit.backends.memory import MemoryBackend
    from django_smart_ratelimit.backends.redis_backend import RedisBackend

    backend: Any = (RedisBackend if redis else MemoryBackend)(algorithm=algorithm)
    if algorithm == "token_bucket":
        return of_keys(lambda key: backend.token_bucket_check(key, LIMIT, LIMIT, LIMIT, 1))
    return of_keys(lambda key: backend.incr(key, 1) <= LIMIT)


def django_ratelimit() -> Call:
    """Return a check on Django's configured cache."""
    from django.test import RequestFactory
    from django_ratelimit.core import is_ratelimited

    request = RequestFactory().get("/")
    following = _keys()
    rate, key = f"{LIMIT}/s", lambda group, request: following()
    return lambda: is_ratelimited(request, group="benchmark", key=key, rate=rate, increment=True)


# Ours


def ours(algorithm: Any, url: str | None = None, times: int = 1, limit: int = LIMIT, **options: Any) -> Call:
    import ratelimit_core
    from ratelimit_core.backends import Backend, MemoryBackend, RedisBackend

    backend: Backend = MemoryBackend() if url is None else RedisBackend(url)
    rates = [f"{limit * (more + 1)}/{more + 1}s" for more in range(times)]
    limiter = ratelimit_core.Limiter(rates, key="benchmark", algorithm=algorithm, backend=backend, **options)
    return of_keys(lambda key: limiter.hit(key=key))


IN_MEMORY = [
    Limiter("limits, fixed window", lambda: limits("FixedWindowRateLimiter")),
    Limiter("limits, moving window", lambda: limits("MovingWindowRateLimiter")),
    Limiter("limits, sliding counter", lambda: limits("SlidingWindowCounterRateLimiter")),
    Limiter("throttled-py, fixed window", lambda: throttled("fixed_window")),
    Limiter("throttled-py, sliding window", lambda: throttled("sliding_window")),
    Limiter("throttled-py, GCRA", lambda: throttled("gcra")),
    Limiter("pyrate-limiter, log", lambda: pyrate(state=False)),
    Limiter("pyrate-limiter, token bucket", lambda: pyrate(state=True)),
    Limiter("django-smart-ratelimit, fixed window", lambda: smart("fixed_window")),
    Limiter("django-smart-ratelimit, sliding window", lambda: smart("sliding_window")),
    Limiter("django-smart-ratelimit, token bucket", lambda: smart("token_bucket")),
    Limiter("django-ratelimit, local cache", django_ratelimit),
    Limiter("resilient-tasks, sliding window", lambda: ours("sliding_window"), "ours"),
    Limiter("resilient-tasks, sliding counter", lambda: ours("sliding_window_counter"), "ours"),
    Limiter("resilient-tasks, fixed window", lambda: ours("fixed_window"), "ours"),
    Limiter("resilient-tasks, token bucket", lambda: ours("token_bucket"), "ours"),
]


def on_redis(server: Server) -> Iterator[Limiter]:
    """Yield the limiters whose state is in Redis."""
    url = server.url
    yield Limiter("limits, fixed window", lambda: limits("FixedWindowRateLimiter", url))
    yield Limiter("limits, moving window", lambda: limits("MovingWindowRateLimiter", url))
    yield Limiter("limits, fixed window, 5 limits", lambda: limits("FixedWindowRateLimiter", url, 5))
    yield Limiter("throttled-py, fixed window", lambda: throttled("fixed_window", url))
    yield Limiter("throttled-py, GCRA", lambda: throttled("gcra", url))
    yield Limiter("pyrate-limiter, log", lambda: pyrate(state=False, url=url))
    yield Limiter("pyrate-limiter, token bucket", lambda: pyrate(state=True, url=url))
    yield Limiter("pyrate-limiter, token bucket, 5 limits", lambda: pyrate(state=True, url=url, times=5))
    yield Limiter("django-smart-ratelimit, fixed window", lambda: smart("fixed_window", redis=True))
    yield Limiter("django-smart-ratelimit, token bucket", lambda: smart("token_bucket", redis=True))
    yield Limiter("django-ratelimit, Redis cache", django_ratelimit)
    for algorithm in ("sliding_window", "fixed_window", "token_bucket"):
        yield Limiter(f"resilient-tasks, {algorithm.replace('_', ' ')}", lambda it=algorithm: ours(it, url), "ours")
    yield Limiter("resilient-tasks, token bucket, 5 limits", lambda: ours("token_bucket", url, 5), "ours")
