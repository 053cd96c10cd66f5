"""A command on a terminal, as somebody sees it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import pyte

from tests.servers import ROOT


class Terminal:
    """It runs ``command``; what that writes is on the screen once somebody looks."""

    def __init__(
        self,
        *command: str,
        environ: Mapping[str, str] | None = None,
        columns: int = 80,
        lines: int = 24,
        cwd: Path = ROOT,
    ) -> None:
        self.written = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (lines, columns))
        self._before = termios.tcgetattr(self._slave)
        self.popen = subprocess.Popen(
            ["setsid", "--ctty", *command],  # so that Ctrl-C is a signal for it
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **(environ or {})},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )

    @property
    def lines(self) -> list[str]:
        """What is on the screen, as far as it was looked at."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, *texts: str) -> None:
        """Look until all of that is on the screen."""
        self.wait_until(lambda text: all(each in text for each in texts))

    def wait_until(self, true: Callable[[str], object], timeout: float = 30.0) -> None:
        """Look until that is true of what is on the screen."""
        deadline = time.monotonic() + timeout
        while not true(self.text):
            if not self._look(deadline - time.monotonic()):
                raise AssertionError(f"not within {timeout} s on:\n{self.text}")

    def _look(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, seconds))
        if ready:
            data = os.read(self._master, 65536)
            self.written += data
            self._stream.feed(data)
        return bool(ready)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """The status with which it ends; looks until then, and at what it leaves."""
        deadline = time.monotonic() + 20
        while self.popen.poll() is None:
            assert time.monotonic() < deadline, f"it goes on:\n{self.text}"
            self._look(0.05)
        while self._look(0):
            pass
        return self.popen.returncode

    def is_as_before(self) -> bool:
        """Whether the terminal was left as it was found."""
        return termios.tcgetattr(self._slave) == self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait()
        os.close(self._slave)
        os.close(self._master)
