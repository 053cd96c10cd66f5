"""A function guarded by each library's breaker, as its own documentation does it: five failures, a minute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .measure import Call, Role
from .stage import Server

Guard = Callable[[Call, Server], Call]


@dataclass(frozen=True, slots=True)
class Breaker:
    """A library's breaker. ``shared``: its state is in Redis."""

    name: str
    guard: Guard
    shared: bool = False
    role: Role = "peer"


class Service:
    """What is guarded: a function that answers, or does not."""

    def __init__(self) -> None:
        self.down = False

        def call() -> None:
            if self.down:
                raise ConnectionError("down")

        self.call: Call = call


def _circuitbreaker(call: Call, server: Server) -> Call:
    from circuitbreaker import circuit

    guarded: Call = circuit(failure_threshold=5, recovery_timeout=60)(call)
    return guarded


def _pybreaker(call: Call, server: Server) -> Call:
    import pybreaker

    guarded: Call = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)(call)
    return guarded


def _pybreaker_redis(call: Call, server: Server) -> Call:
    import pybreaker
    import redis

    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, redis.StrictRedis(port=server.port))
    guarded: Call = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60, state_storage=storage)(call)
    return guarded


def _purgatory(call: Call, server: Server) -> Call:
    from purgatory import SyncCircuitBreakerFactory

    guarded: Call = SyncCircuitBreakerFactory(default_threshold=5, default_ttl=60)("service")(call)
    return guarded


def _interlock(call: Call, server: Server) -> Call:
    from interlock import CircuitBreaker, Config

    guarded: Call = CircuitBreaker(name="service", config=Config(minimum_number_of_calls=5))(call)
    return guarded


def _interlock_redis(call: Call, server: Server) -> Call:
    import redis
    from interlock import CircuitBreaker, Config
    from interlock.integrations.redis import RedisStorage

    storage = RedisStorage(redis.Redis(port=server.port))
    config = Config(minimum_number_of_calls=5)
    guarded: Call = CircuitBreaker(name="shared service", config=config, storage=storage)(call)
    return guarded


def _smart_ratelimit(call: Call, server: Server) -> Call:
    from django_smart_ratelimit.circuit_breaker import circuit_breaker

    guarded: Call = circuit_breaker(name="service", failure_threshold=5, recovery_timeout=60)(call)
    return guarded


def _ours(call: Call, server: Server) -> Call:
    from ratelimit_core.backends import MemoryBackend
    from ratelimit_core.circuit_breaker import circuit_breaker

    return circuit_breaker("in memory", failure_threshold=5, recovery_timeout=60, backend=MemoryBackend())(call)


def _ours_redis(call: Call, server: Server) -> Call:
    from ratelimit_core.backends import RedisBackend
    from ratelimit_core.circuit_breaker import circuit_breaker

    backend = RedisBackend(server.url)
    return circuit_breaker("shared", failure_threshold=5, recovery_timeout=60, backend=backend)(call)


OURS = Breaker("resilient-tasks, Redis", _ours_redis, shared=True, role="ours")
BREAKERS = [
    Breaker("circuitbreaker", _circuitbreaker),
    Breaker("pybreaker", _pybreaker),
    Breaker("pybreaker, Redis", _pybreaker_redis, shared=True),
    Breaker("purgatory", _purgatory),
    Breaker("interlock-cb", _interlock),
    Breaker("interlock-cb, Redis", _interlock_redis, shared=True),
    Breaker("django-smart-ratelimit", _smart_ratelimit),
    Breaker("resilient-tasks, memory", _ours, role="ours"),
    OURS,
]
