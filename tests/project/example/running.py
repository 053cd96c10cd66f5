"""The example as processes that can be told from all others."""

from __future__ import annotations

import uuid

import psutil

from tests.servers import Process


def new_mark() -> str:
    return uuid.uuid4().hex


def start(module: str, mark: str, *arguments: str, **environ: str) -> Process:
    """``python -m example_worker.<module>``, whose processes all carry the mark."""
    environ = {"COLUMNS": "140", "TERM": "dumb", "EXAMPLE_OF_TEST": mark, **environ}
    return Process.python("-m", f"example_worker.{module}", *arguments, environ=environ)


def left_over(mark: str) -> list[str]:
    """Processes with that mark that are still there: each names the module it runs."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environ = process.info["environ"] or {}
        if environ.get("EXAMPLE_OF_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.info["cmdline"] or []))
    return found
