"""A backend that can't be made."""

from __future__ import annotations

from ratelimit_core.backends import MemoryBackend


class Broken(MemoryBackend):
    def __init__(self) -> None:
        raise RuntimeError("out of order")
