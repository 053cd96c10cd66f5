"""A function behind the breaker of each library, used as the documentation of that library shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from .measure import Call, Role
from .stage import Server

if TYPE_CHECKING:
    from ratelimit_core.backends import Backend


@dataclass(frozen=True, slots=True)
class Wanted:
    """The settings of a breaker. Times are in seconds."""

    name: str = "service"
    failures: int = 5
    recovery: float = 60.0
    probe_timeout: float = 60.0
    """Only for libraries that have such a setting."""
    socket_timeout: float = 0.25
    """Only for this library. Races set a long one, so that a busy machine does not look like a failed store."""


Guard = Callable[[Call, Server, Wanted], Call]


@dataclass(frozen=True, slots=True)
class Breaker:
    """A library's breaker. If ``shared``, the state of the breaker is in Redis."""

    name: str
    make: Guard
    shared: bool = False
    role: Role = "peer"

    def guard(self, call: Call, server: Server, **wanted: Any) -> Call:
        """Return ``call`` behind a breaker with the settings ``wanted``."""
        return self.make(call, server, replace(Wanted(), **wanted))


class Service:
    """The guarded function, which raises while ``down`` is True."""

    def __init__(self) -> None:
        self.down = False

        def call() -> None:
            if self.down:
                raise ConnectionError("down")

        self.call: Call = call


def outcome(call: Call) -> object:
    """Return the result of ``call``, or the exception that it raises."""
    try:
        return call()
    except Exception as error:
        return error


def _circuitbreaker(call: Call, server: Server, wanted: Wanted) -> Call:
    from circuitbreaker import circuit

    guarded: Call = circuit(failure_threshold=wanted.failures, recovery_timeout=wanted.recovery)(call)
    return guarded


def _pybreaker(call: Call, server: Server, wanted: Wanted) -> Call:
    import pybreaker

    guarded: Call = pybreaker.CircuitBreaker(fail_max=wanted.failures, reset_timeout=wanted.recovery)(call)
    return guarded


def _pybreaker_redis(call: Call, server: Server, wanted: Wanted) -> Call:
    import pybreaker
    import redis

    client = redis.StrictRedis(port=server.port)
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=wanted.name)
    breaker = pybreaker.CircuitBreaker(
        fail_max=wanted.failures, reset_timeout=wanted.recovery, state_storage=storage, name=wanted.name
    )
    guarded: Call = breaker(call)
    return guarded


def _purgatory(call: Call, server: Server, wanted: Wanted) -> Call:
    from purgatory import SyncCircuitBreakerFactory

    factory = SyncCircuitBreakerFactory(default_threshold=wanted.failures, default_ttl=wanted.recovery)
    guarded: Call = factory(wanted.name)(call)
    return guarded


def _interlock(call: Call, server: Server, wanted: Wanted, **options: Any) -> Call:
    from interlock import CircuitBreaker, Config

    config = Config(
        minimum_number_of_calls=wanted.failures,
        wait_duration_in_open=wanted.recovery,
        permitted_calls_in_half_open=1,
    )
    guarded: Call = CircuitBreaker(name=wanted.name, config=config, **options)(call)
    return guarded


def _interlock_redis(call: Call, server: Server, wanted: Wanted) -> Call:
    import redis
    from interlock.integrations.redis import RedisStorage

    return _interlock(call, server, wanted, storage=RedisStorage(redis.Redis(port=server.port)))


def _smart_ratelimit(call: Call, server: Server, wanted: Wanted) -> Call:
    from django_smart_ratelimit.circuit_breaker import circuit_breaker

    guarded: Call = circuit_breaker(
        name=wanted.name, failure_threshold=wanted.failures, recovery_timeout=int(wanted.recovery)
    )(call)
    return guarded


def _smart_ratelimit_redis(call: Call, server: Server, wanted: Wanted) -> Call:
    """Build the same breaker as the decorator does if the settings put the state into Redis."""
    import redis
    from django_smart_ratelimit.circuit_breaker import CircuitBreaker, CircuitBreakerConfig

    config = CircuitBreakerConfig(
        name=wanted.name,
        failure_threshold=wanted.failures,
        recovery_timeout=int(wanted.recovery),
        state_backend="redis",
    )
    breaker = CircuitBreaker(config, redis_client=redis.from_url(server.url))
    return partial(breaker.call, call)


def _ours(call: Call, backend: Backend, wanted: Wanted) -> Call:
    from ratelimit_core.circuit_breaker import circuit_breaker

    return circuit_breaker(
        wanted.name,
        failure_threshold=wanted.failures,
        recovery_timeout=wanted.recovery,
        probe_timeout=wanted.probe_timeout,
        backend=backend,
    )(call)


def _ours_memory(call: Call, server: Server, wanted: Wanted) -> Call:
    return _ours(call, _memory_backend(), replace(wanted, name=f"{wanted.name}, in memory"))


def _ours_redis(call: Call, server: Server, wanted: Wanted) -> Call:
    return _ours(call, _redis_backend(server.url, wanted.socket_timeout), wanted)


# One backend for each process, as in a program.


@cache
def _memory_backend() -> Backend:
    from ratelimit_core.backends import MemoryBackend

    return MemoryBackend()


@cache
def _redis_backend(url: str, socket_timeout: float) -> Backend:
    from ratelimit_core.backends import RedisBackend

    return RedisBackend(url, socket_timeout=socket_timeout)


OURS = Breaker("resilient-tasks, Redis", _ours_redis, shared=True, role="ours")
BREAKERS = [
    Breaker("circuitbreaker", _circuitbreaker),
    Breaker("pybreaker", _pybreaker),
    Breaker("pybreaker, Redis", _pybreaker_redis, shared=True),
    Breaker("purgatory", _purgatory),
    Breaker("interlock-cb", _interlock),
    Breaker("interlock-cb, Redis", _interlock_redis, shared=True),
    Breaker("django-smart-ratelimit", _smart_ratelimit),
    Breaker("django-smart-ratelimit, Redis", _smart_ratelimit_redis, shared=True),
    Breaker("resilient-tasks, memory", _ours_memory, role="ours"),
    OURS,
]
SHARED = {each.name: each for each in BREAKERS if each.shared}
