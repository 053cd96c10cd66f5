"""How records, leases, journals and the index are named in Redis."""

from __future__ import annotations

import zlib

from ...policies import Policy
from ...protocol.call import Call, Key
from ...protocol.names import escape, known_by, unescape

BUCKETS = 64
"""The slots that a cluster is used by. The number is part of every key: with another one nothing is found again."""

JOURNAL = "journal"
"""What journals are indexed as, beside the policies."""


class Keys:
    """``prefix:{name}:policy:qualifier``, ``...:leases`` beside a record, and an index for each policy."""

    def __init__(self, prefix: str) -> None:
        self.prefix = escape(prefix).replace("%3A", ":")

    def _stem(self, name: str) -> str:
        return f"{self.prefix}:{{{escape(name)}}}"

    def record(self, policy: Policy, key: Key) -> list[str]:
        """The keys of one record, of which the first is the one that the index lists."""
        return self.beside(policy, f"{self._stem(key[0])}:{policy.name}:{escape(key[1])}")

    def of(self, policy: Policy, key: Key) -> list[str]:
        """The keys that a call is about: those of its record, and that of the index."""
        return [*self.record(policy, key), self.index(policy.name, key[0])]

    def beside(self, policy: Policy, first: str) -> list[str]:
        """The same, of what an index lists."""
        return [first, f"{first}:leases"] if policy.record and policy.leases else [first]

    def journal(self, key: Key) -> str:
        """The key of a journal."""
        return f"{self._stem(key[0])}:{JOURNAL}:{escape(key[1])}"

    def index(self, kind: str, name: str) -> str:
        """What lists the records of the policy ``kind``, or the journals, under ``name``."""
        return f"{self.prefix}:index:{kind}"

    def indexes(self, kind: str) -> list[str]:
        """All that list the records of a policy, or journals."""
        return [f"{self.prefix}:index:{kind}"]

    def parse(self, stored: str) -> Key:
        """The key of a record that an index lists."""
        name, _, qualifier = stored[len(self.prefix) :].split(":")[-3:]
        return unescape(name.strip("{}")), unescape(qualifier)


class ClusterKeys(Keys):
    """``prefix:{bucket}:name:policy:qualifier``: the name chooses one of :data:`BUCKETS`, with indexes of its own.

    What has one name lies together. So does what has a common tag: of a name with a part in braces only that part
    chooses, as in Redis itself. ``payments``, ``{payments}`` and ``eu:{payments}`` share a bucket. A name that is too
    long to be stored has no parts.
    """

    @staticmethod
    def bucket(name: str) -> int:
        """The bucket of a name."""
        name = known_by(name)
        tag = name.partition("{")[2].partition("}")
        return zlib.crc32((tag[0] if tag[1] and tag[0] else name).encode("utf-8", "surrogatepass")) % BUCKETS

    def _stem(self, name: str) -> str:
        return f"{self.prefix}:{{{self.bucket(name)}}}:{escape(name)}"

    def _index(self, kind: str, bucket: int) -> str:
        return f"{self.prefix}:{{{bucket}}}:index:{kind}"

    def index(self, kind: str, name: str) -> str:
        """What lists the records, or the journals, in the bucket of ``name``."""
        return self._index(kind, self.bucket(name))

    def indexes(self, kind: str) -> list[str]:
        """One for each bucket."""
        return [self._index(kind, bucket) for bucket in range(BUCKETS)]


Question = tuple[list[Call], bool]
"""Calls of one bucket, and whether to decide them without writing anything."""
