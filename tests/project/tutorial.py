"""The tutorial, word for word: its files are written, its commands run, and what it shows is seen.

Fences tell what a block is: ``python title="FILE"`` is a file. ``sh`` is run, and with the title ``a terminal of its
own: NAME`` goes on running. ``text`` has lines of what the last command has put out, or with the title ``NAME: N
times`` what that terminal shows so often.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from tests.servers import ROOT, Process, eventually, free_port

TUTORIAL = ROOT / "docs" / "tutorial.md"
SERVERS = {"the store": "6390", "the service": "8001", "the site": "8002"}
"""What listens, and where; the test has other ports."""
OWN = "a terminal of its own: "

_BLOCK = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>.*)")?\n(?P<text>(?s:.*?))^```$', re.MULTILINE)
_PORT = re.compile("|".join(SERVERS.values()))


class Reader:
    """Somebody who does what the tutorial says, once they have installed what it takes."""

    def __init__(self, directory: Path, python: Path, environ: Mapping[str, str], stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.ports = {port: free_port() for port in SERVERS.values()}
        self.environ = {**os.environ, "NO_COLOR": "1", **environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
        self.terminals: dict[str, Process] = {}
        self.command = self.shown = ""

    def does(self, kind: str, title: str, text: str) -> None:
        text = _PORT.sub(lambda port: str(self.ports[port[0]]), text)
        name, _, times = title.removeprefix(OWN).partition(": ")
        match kind:
            case "python":
                (self.directory / title).write_text(text)
            case "sh" if title:
                self.starts(name, text)
            case "sh" if "pip install" not in text:
                self.runs(text)
            case "text" if title:
                self.terminals[name].wait_for(text.strip(), 60, 1 if times == "once" else int(times.split()[0]))
            case "text":
                if self.command.startswith("celery"):  # it may have looked in the very moment of a probe
                    eventually(lambda: self.shows(text) or self.shows_anew(text))
                assert self.shows(text), self.shown

    def shows(self, text: str) -> bool:
        shown = " ".join(self.shown.split())
        return all(" ".join(line.split()) in shown for line in text.splitlines())

    def shows_anew(self, text: str) -> bool:
        self.runs(self.command)
        return self.shows(text)

    def runs(self, command: str) -> None:
        self.command = command
        done = subprocess.run(
            ["sh", "-e", "-c", command],
            check=True,
            cwd=self.directory,
            env=self.environ,
            stdout=subprocess.PIPE,
            timeout=60,
        )
        self.shown = done.stdout.decode()

    def starts(self, name: str, command: str) -> None:
        if name in self.terminals:
            self.terminals[name].stop()
        process = Process("sh", "-c", f"exec {command}", environ=self.environ, cwd=self.directory)
        self.terminals[name] = self.stack.enter_context(process)
        if name in SERVERS:
            eventually(lambda: self.listens(self.ports[SERVERS[name]]))
        else:
            process.wait_for("ready.")

    @staticmethod
    def listens(port: int) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


def blocks() -> Iterator[re.Match[str]]:
    return _BLOCK.finditer(TUTORIAL.read_text())


def how_to_install() -> str:
    """The command that makes an environment, ``.venv``, of what the tutorial takes."""
    return next(block["text"] for block in blocks() if "pip install" in block["text"])


def follow(directory: Path, python: Path, environ: Mapping[str, str]) -> None:
    """Do all of it in an empty directory, where the commands are those that were installed beside ``python``."""
    found = list(blocks())
    assert len(found) == len(re.findall("^```[a-z]", TUTORIAL.read_text(), re.MULTILINE)) > 20
    with ExitStack() as stack:
        reader = Reader(directory, python, environ, stack)
        for block in found:
            reader.does(block["kind"], block["title"] or "", block["text"])
        reader.runs(f"curl -s http://127.0.0.1:{reader.ports[SERVERS['the service']]}/")
        calls = int(reader.shown.split()[0])
        assert 100 < calls <= 80 + 20 + 15  # threshold, two that ran, those within cache_ttl, and a few probes
