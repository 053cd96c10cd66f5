"""Child processes that end when the process that started them ends."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from types import FrameType
from typing import Self

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE = 8.0  # seconds between SIGTERM and SIGKILL; more than honcho's 5 seconds for its own processes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Have Linux send ``signum`` to this process when its parent dies. On other systems, do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


def leave_orderly() -> None:
    """Turn signals that end this process into ``SystemExit``, so that every ``with`` cleans up."""
    for signum in SIGNALS:
        signal.signal(signum, _leave)


def _leave(signum: int, frame: FrameType | None) -> None:
    for each in SIGNALS:  # a second signal must not interrupt the cleanup
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + signum)


class Processes:
    """Child processes, each in its own process group. The end of the ``with`` block ends all groups.

    Their output is appended to the file ``log``. Without ``log`` it goes to the output of this process.
    """

    def __init__(self, environ: Mapping[str, str], log: str | None = None) -> None:
        self._environ = {**os.environ, **environ}
        self._log = log
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, *module_and_arguments: str, when_orphaned: int = signal.SIGKILL) -> subprocess.Popen[bytes]:
        """Start ``python -m module arguments``. If this process is killed, the child gets ``when_orphaned``."""
        with nullcontext() if self._log is None else open(self._log, "ab") as log:
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
        return child

    def run(self, *module_and_arguments: str) -> None:
        """Run ``python -m module arguments`` to its end. If it fails, exit this process."""
        if self.start(*module_and_arguments).wait() != 0:
            sys.exit(f"python -m {' '.join(module_and_arguments)} failed; its output says why")

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
