"""Everything that the soak runs on, and how it is broken and healed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from example_worker.payments import Upstream
from tests.servers import Process, eventually, free_port, valkey_that_persists

CHILDREN = 4
CELERY = ("-m", "celery", "-A", "tests.soak.app", "worker", "-Q", "celery,settling", "-c", str(CHILDREN), "-l", "INFO")

Heal = Callable[[], object]


class Stage:
    """A store and a broker, two services, two workers and a site. Of the workers one lives on, the other is killed."""

    def __init__(self, stack: ExitStack, directory: Path, seed: int) -> None:
        self._stack = stack
        self._chance = random.Random(seed)
        broker, start_broker = stack.enter_context(valkey_that_persists(_new(directory / "broker")))
        self.store_url, self._start_store = stack.enter_context(valkey_that_persists(_new(directory / "store")))
        start_broker()
        self._store = self._start_store()
        self.store_port = int(self.store_url.rpartition(":")[2].removesuffix("/0"))
        stack.callback(self._end_hang)
        self.environ = {"SOAK_BROKER": broker.rpartition("/")[0], "SOAK_STORE": self.store_url}
        self.store: Any = stack.enter_context(redis.Redis.from_url(self.store_url, decode_responses=True))
        self.broker: Any = stack.enter_context(redis.Redis.from_url(broker))
        self.payments, self.environ["UPSTREAM_URL"] = self._service()
        self.quotes, quotes_url = self._service()
        self.workers_killed = 0
        self.steady = self._worker("steady")
        self._mortals = [self._worker("mortal0")]
        port = free_port()
        options = ("--host", "127.0.0.1", "--port", str(port), "--lifespan", "off", "--no-access-log")
        self.site = self._start("-m", "uvicorn", "tests.soak.site:application", *options, UPSTREAM_URL=quotes_url)
        self.site_url = f"http://127.0.0.1:{port}/quote"
        self.site.wait_for("Uvicorn running")
        for worker in (self.steady, self._mortals[0]):
            worker.wait_for("ready.")

    def _start(self, *arguments: str, **environ: str) -> Process:
        return self._stack.enter_context(Process.python(*arguments, environ={**self.environ, **environ}))

    def _service(self) -> tuple[Upstream, str]:
        port = free_port()
        self._start("-m", "example_worker.upstream", "--port", str(port)).wait_for("payment service on")
        url = f"http://127.0.0.1:{port}"
        return Upstream(url), url

    def _worker(self, name: str) -> Process:
        return self._start(*CELERY, "-n", f"{name}@soak", "--without-gossip", "--without-mingle")

    @property
    def spared(self) -> list[psutil.Process]:
        """The processes that no fault ends."""
        steady = psutil.Process(self.steady.popen.pid)
        oldest = min(steady.children(), key=lambda child: child.create_time())
        return [psutil.Process(self.site.popen.pid), steady, oldest]

    @property
    def processes(self) -> list[psutil.Process]:
        """All that ask the store."""
        workers = [psutil.Process(worker.popen.pid) for worker in (self.steady, self._mortals[-1])]
        children = [child for worker in workers for child in worker.children()]
        return [psutil.Process(self.site.popen.pid), *workers, *children]

    # The faults. Each returns what ends it.

    def upstream_down(self) -> Heal:
        return self._switch("down")

    def upstream_slow(self) -> Heal:
        """Slower than its callers wait."""
        return self._switch("slow")

    def upstream_failing(self) -> Heal:
        return self._switch("failing")

    def _switch(self, mode: str) -> Heal:
        def both(mode: str) -> None:
            for service in (self.payments, self.quotes):
                service.switch(mode)

        both(mode)
        return lambda: both("up")

    def store_hangs(self) -> Heal:
        os.kill(self._store.popen.pid, signal.SIGSTOP)
        return self._end_hang

    def _end_hang(self) -> None:
        if self._store.popen.poll() is None:
            os.kill(self._store.popen.pid, signal.SIGCONT)

    def store_killed(self) -> Heal:
        self._store.kill()
        self._store.popen.wait()

        def start() -> None:
            self._store = self._start_store()

        return start

    def child_killed(self) -> Heal:
        mortal = [process for process in self.processes[3:] if process not in self.spared]
        self._chance.choice(mortal).kill()
        return lambda: None

    def worker_killed(self) -> Heal:
        """With its children: as when the machine goes."""
        self._mortals[-1].kill()
        self._mortals[-1].popen.wait()
        self.workers_killed += 1
        return self._succeed()

    def worker_replaced(self) -> Heal:
        """As in a deploy: told to end what it runs and to go, while its successor starts."""
        self._mortals[-1].popen.terminate()
        return self._succeed()

    def _succeed(self) -> Heal:
        self._mortals.append(self._worker(f"mortal{len(self._mortals)}"))
        return lambda: None

    def settled(self) -> bool:
        """Whether those that were told to go have gone, and the last one is there."""
        return not self.lingering() and "ready." in self._mortals[-1].output

    def lingering(self) -> int:
        """How many workers were told to go and have not gone."""
        return sum(worker.popen.poll() is None for worker in self._mortals[:-1])

    def said(self, text: str) -> list[str]:
        """What the workers said of something, in order."""
        return sorted(line for worker in (self.steady, *self._mortals) for line in worker.lines if text in line)

    def messages(self) -> int:
        """How many the broker has, in queues or with workers."""
        return int(self.broker.llen("celery") + self.broker.llen("settling") + self.broker.hlen("unacked"))


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory


@contextmanager
def running(directory: Path, seed: int) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack, directory, seed)
        eventually(lambda: requests.get(stage.site_url, timeout=5).ok)
        yield stage
