"""Workers of the fleet, on an embedded Valkey of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
from kombu import pools

from ratelimit_core import CircuitBreaker
from ratelimit_core.circuit_breaker.breaker import cache_of
from ratelimit_core.config.sources import add_source
from resilient_tasks import settings
from tests import servers
from tests.flower import flower
from tests.servers import Process, eventually


@pytest.fixture(autouse=True)
def app_settings(fresh_settings: None) -> None:
    """Here the settings come from the app."""
    add_source(settings._from_app)


class Fleet:
    """The broker, the workers, and the app as a producer sees it."""

    def __init__(self, module: Any, stack: ExitStack, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.module = module
        self.app = module.app
        self.world = module.world
        self._stack = stack
        self._workers = 0

    def worker(self, *arguments: str, **environ: str) -> Process:
        """A real ``celery worker``, ready."""
        self._workers += 1
        name = f"w{self._workers}@test"
        process = self._stack.enter_context(
            Process.python(
                *("-m", "celery", "-A", "tests.celery.fleet", "worker", "-n", name, "-l", "INFO"),
                *("--without-gossip", "--without-mingle", *(arguments or ("-c", "2"))),
                environ={"FLEET_URL": self.module.URL, **self.environ, **environ},
            )
        )
        process.wait_for("ready.")
        return process

    def outage(self) -> None:
        self.world.set("down", 1)

    def recovery(self) -> None:
        self.world.delete("down")

    def redeliver(self) -> None:
        servers.redeliver(self.app)

    def flower(self, *options: str) -> AbstractContextManager[str]:
        """A real Flower, which sees what workers tell from now on; its URL."""
        return flower(
            *("-A", "tests.celery.fleet"), options=options, environ={"FLEET_URL": self.module.URL, **self.environ}
        )

    def trip(self, task: str) -> CircuitBreaker:
        """Open the breaker of ``task``, as its failures would."""
        breaker: CircuitBreaker = getattr(self.module, task).resilience.breaker
        for _ in range(breaker.config.failure_threshold):
            breaker.acquire().failure()
        return breaker

    @property
    def calls(self) -> int:
        return int(self.world.llen("calls"))


@contextmanager
def assembled(module: Any, **environ: str) -> Iterator[Fleet]:
    module.app.set_current()
    module.world.flushall()
    for task in module.app.tasks.values():
        protection = getattr(task, "resilience", None)
        if protection is not None and protection.breaker is not None:
            cache_of(protection.breaker).forget()
    with ExitStack() as stack:
        yield Fleet(module, stack, environ)


@pytest.fixture
def fleet(fleet_module: Any) -> Iterator[Fleet]:
    with assembled(fleet_module) as fleet:
        yield fleet


BROKERS = ["valkey", "rabbitmq", "quorum"]


@pytest.fixture(params=BROKERS)
def any_fleet(request: pytest.FixtureRequest, fleet_module: Any) -> Iterator[Fleet]:
    """A fleet on each broker in turn."""
    with ExitStack() as stack:
        environ = {}
        if request.param != "valkey":
            environ = {"FLEET_BROKER": stack.enter_context(servers.rabbitmq()), "FLEET_QUEUES": request.param}
        yield stack.enter_context(on_broker(fleet_module, **environ))


@contextmanager
def on_broker(module: Any, **environ: str) -> Iterator[Fleet]:
    """A fleet whose broker is that of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        module.app.conf.update(module.broker_settings())
        connect_anew(module.app)
        with assembled(module, **environ) as fleet:
            yield fleet
        pools.reset()
    module.app.conf.update(module.broker_settings())
    connect_anew(module.app)


def connect_anew(app: Any) -> None:
    """The app has another broker now."""
    pools.reset()
    app._pool = None
    del app.amqp


@pytest.fixture
def gather() -> Callable[..., list[Any]]:
    """The results of several tasks."""

    def gather(results: list[Any], timeout: float = 40.0) -> list[Any]:
        # Asked for each in turn, an older Celery's client sleeps for up to a second before it sees that it is there.
        eventually(lambda: all(result.ready() for result in results), timeout)
        return [result.get(timeout=timeout) for result in results]

    return gather
