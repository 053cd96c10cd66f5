"""A real Flower, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests

from tests.servers import Process, eventually, free_port


@contextmanager
def flower(*celery: str, options: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """A Flower that is connected to its broker; its URL. ``celery`` says which app, or which broker."""
    port = free_port()
    with Process.python(
        *("-m", "celery", *celery, "flower", f"--port={port}", "--address=127.0.0.1", *options),
        environ={"FLOWER_UNAUTHENTICATED_API": "true", **(environ or {})},
    ) as process:
        process.wait_for("Connected to")
        yield f"http://127.0.0.1:{port}"


def ask(url: str, path: str) -> dict[str, Any]:
    """What Flower's API answers; nothing if it knows nothing of that."""
    reply = requests.get(f"{url}/api/{path}", timeout=5)
    return dict(reply.json()) if reply.ok else {}


def waiting(url: str, task_id: str) -> dict[str, Any]:
    """What Flower says of a task, as soon as that waits in a worker."""
    seen: dict[str, Any] = {}

    def waits() -> bool:
        seen.update(ask(url, f"task/info/{task_id}"))
        return bool(seen.get("exception") and seen.get("eta"))

    eventually(waits)
    return seen
