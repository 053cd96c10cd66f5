"""Child processes that never outlive the one that started them."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Have Linux send ``signum`` to this process when its parent dies, however it dies; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


class Processes:
    """Child processes, each in a group of its own; leaving the ``with`` ends them and what they started."""

    def __init__(self, environ: Mapping[str, str], log: str) -> None:
        self._environ = {**os.environ, **environ}
        self._log = log
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, *module_and_arguments: str, when_orphaned: int = signal.SIGKILL) -> None:
        """Run ``python -m module arguments``; if this process is killed, the child gets ``when_orphaned``."""
        with open(self._log, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *module_and_arguments],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(when_orphaned),  # noqa: PLW1509 - no threads run here
            )
        self._children.append(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        for child in self._children:
            child.wait()

    def _signal(self, signum: int) -> None:
        for child in self._children:
            with suppress(ProcessLookupError):  # the whole group has ended
                os.killpg(child.pid, signum)
