"""What a store has to be able to do: run policies next to their records, all or none."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from ..policies import Policy, Verdict


class Call(NamedTuple):
    """One question to one policy.

    ``key`` names the record: ``(name, qualifier)``. Records of one name lie together (in a Redis Cluster: in
    one slot). ``event`` and ``config`` are in the order of the policy's signature; ``ticket`` names the lease
    that is the caller's own, and always comes with the same cost.
    """

    policy: Policy
    key: tuple[str, str]
    event: tuple[int, ...]
    config: tuple[int, ...]
    ticket: str = ""


class Backend(ABC):
    """A store. Thread-safe, and usable in a forked child."""

    shared = True
    """Whether other processes see what is stored here. Verdicts of a store that is not shared aren't reused."""

    @abstractmethod
    def apply(self, calls: Sequence[Call]) -> list[Verdict]:
        """Decide ``calls`` atomically, in one round trip; if one is denied, nothing is written for any.

        Raises:
            ValueError: two of the calls name the same record.
            BackendError: the store did not answer.
        """

    @abstractmethod
    def delete(self, policy: Policy, keys: Sequence[tuple[str, str]]) -> None:
        """Forget these records and their leases, in one round trip."""

    @abstractmethod
    def keys(self, policy: Policy) -> list[tuple[str, str]]:
        """The records of ``policy`` that are in use, without scanning the store."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything that this library stored under this backend's prefix."""

    def close(self) -> None:  # noqa: B027 - most stores have nothing to close
        """Let go of connections. The backend may be used again afterwards."""


def refuse_duplicates(calls: Sequence[Call]) -> None:
    """A record can be decided once in a call: the second would not see what the first is about to write."""
    if len(calls) > 1:
        records = [(call.policy.name, call.key) for call in calls]
        for record in records:
            if records.count(record) > 1:
                raise ValueError(f"the same record twice in one call: {record[0]} of {record[1]}")


MAX_KEY = 200
"""Names longer than this many bytes are cut, and end in a hash of the whole."""


def escape(text: str) -> str:
    """Make ``text`` safe inside a key: no braces (they would choose the slot), spaces or control characters.

    Injective; bounded by hashing what is longer than :data:`MAX_KEY`.
    """
    if text.isascii() and len(text) <= MAX_KEY and text.isprintable() and not _UNSAFE.intersection(text):
        return text
    data = text.encode("utf-8", "surrogatepass")
    start = data[: MAX_KEY + 1]
    safe = "".join(chr(b) if 33 <= b <= 126 and chr(b) not in _UNSAFE else f"%{b:02X}" for b in start)
    if len(safe) > MAX_KEY:
        safe = f"{safe[:100]}%%{hashlib.sha256(data).hexdigest()[:40]}"
    return safe


def unescape(text: str) -> str:
    """The name that was escaped; of a hashed one, its escaped form."""
    if "%" not in text or "%%" in text:
        return text
    parts = text.split("%")
    data = parts[0].encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts[1:])
    return data.decode("utf-8", "surrogatepass")


_UNSAFE = frozenset("{}% :")
