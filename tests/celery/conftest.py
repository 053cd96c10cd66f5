"""Workers of the fleet, on an embedded Valkey of the test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
import redis
from kombu import pools

from ratelimit_core import CircuitBreaker, circuit_breaker_registry
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


SHARED = 8
"""The database that is the broker of the worker which tests share: it sees no message of another test."""


class Fleet:
    """The broker, the workers, and the app as a producer sees it."""

    def __init__(self, module: Any, stack: ExitStack, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.module = module
        self.app = module.app
        self.world = module.world
        self._stack = stack
        self._workers = 0

    def shared_worker(self) -> None:
        """Have tasks run by a worker that is there for all tests that ask for it, before anything is published.

        Such a test neither ends nor configures the worker, reads nothing that it writes, and leaves no task with it.
        """
        environ = {"FLEET_BROKER": f"{self.module.URL}/{SHARED}"}
        self._stack.enter_context(_with_broker(self.module, **environ))
        if self.module.shared_worker is None:
            worker = self._started("shared", "-c", "2", **environ)
            self.module.shared_worker = self.module.until_the_end.enter_context(worker)
        assert self.module.shared_worker.popen.poll() is None, self.module.shared_worker.output
        self._stack.callback(eventually, self._holds_nothing)

    def _holds_nothing(self) -> bool:
        with self.app.connection_for_write() as connection:
            client = connection.default_channel.client
            return not client.hlen("unacked") and not client.llen("celery")

    def worker(self, *arguments: str, **environ: str) -> Process:
        """A real ``celery worker``, ready."""
        self._workers += 1
        return self._stack.enter_context(self._started(f"w{self._workers}", *(arguments or ("-c", "2")), **environ))

    def _started(self, name: str, *arguments: str, **environ: str) -> Process:
        process = Process.python(
            *("-m", "celery", "-A", "tests.celery.fleet", "worker", "-n", f"{name}@test", "-l", "INFO"),
            *("--without-gossip", "--without-mingle", *arguments),
            environ={"FLEET_URL": self.module.URL, **self.environ, **environ},
        )
        try:
            process.wait_for("ready.")
        except BaseException:
            process.stop()
            raise
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
    _begin_anew(module)
    circuit_breaker_registry._breakers.update(module.breakers)  # as a worker, which imports it, has them defined
    for task in module.app.tasks.values():
        protection = getattr(task, "resilience", None)
        ours = task.name.startswith("tests.celery.fleet.")  # shared tasks of other tests are there as well
        if ours and protection is not None and protection.breaker is not None:
            cache_of(protection.breaker).forget()
    with ExitStack() as stack:
        yield Fleet(module, stack, environ)


def _begin_anew(module: Any) -> None:
    """Empty the server, but for what tells the shared worker's messages where to go; no process goes on as before."""
    for database in (0, 1, 2, 3, SHARED):
        with redis.Redis.from_url(f"{module.URL}/{database}") as client:
            for key in client.scan_iter(count=10_000):
                if database != SHARED or not key.startswith(b"_kombu.binding."):
                    client.delete(key)
    module.world.set("began", uuid.uuid4().hex)


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
    with _with_broker(module, **environ), assembled(module, **environ) as fleet:
        yield fleet


@contextmanager
def _with_broker(module: Any, **environ: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        module.app.conf.update(module.broker_settings())
        connect_anew(module.app)
        yield
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
