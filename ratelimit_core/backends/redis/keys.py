"""How records, leases, journals and the index are named in Redis."""

from __future__ import annotations

import zlib

from ...policies import Policy
from ...protocol.call import Key
from ...protocol.names import escape, known_by, unescape

BUCKETS = 64
"""How many cluster slots are used. The number is part of every key, so after a change no record would be found."""

JOURNAL = "journal"
"""The name under which journals are indexed, besides the policies."""


class Keys:
    """``prefix:{name}:policy:qualifier``, ``...:leases`` beside a record, and an index for each policy."""

    def __init__(self, prefix: str) -> None:
        self.prefix = escape(prefix).replace("%3A", ":")

    def _stem(self, name: str) -> str:
        return f"{self.prefix}:{{{escape(name)}}}"

    def record(self, policy: Policy, key: Key) -> list[str]:
        """Return the keys of one record. The index lists the first one."""
        return self.beside(policy, f"{self._stem(key[0])}:{policy.name}:{escape(key[1])}")

    def of(self, policy: Policy, key: Key) -> list[str]:
        """Return the keys that a call uses: those of its record, and that of the index."""
        return [*self.record(policy, key), self.index(policy.name, key[0])]

    def beside(self, policy: Policy, first: str) -> list[str]:
        """Return the keys of the record whose first key an index lists."""
        return [first, f"{first}:leases"] if policy.record and policy.leases else [first]

    def journal(self, key: Key) -> str:
        """Return the key of a journal."""
        return f"{self._stem(key[0])}:{JOURNAL}:{escape(key[1])}"

    def index(self, kind: str, name: str) -> str:
        """Return the key of the index of the policy ``kind``, or of the journals, that lists ``name``."""
        return f"{self.prefix}:index:{kind}"

    def indexes(self, kind: str) -> list[str]:
        """Return the keys of all indexes of a policy, or of the journals."""
        return [f"{self.prefix}:index:{kind}"]

    def parse(self, stored: str) -> Key:
        """Return the key of the record whose first key an index lists."""
        name, _, qualifier = stored[len(self.prefix) :].split(":")[-3:]
        return unescape(name.strip("{}")), unescape(qualifier)


class ClusterKeys(Keys):
    """``prefix:{bucket}:name:policy:qualifier``: the name chooses one of :data:`BUCKETS`, each with its own indexes.

    Records of one name are in one slot. So are names with a common tag: if a name has a part in braces, only that part
    chooses, as in Redis itself. ``payments``, ``{payments}`` and ``eu:{payments}`` share a bucket. A name that is too
    long to be stored has no tag.
    """

    @staticmethod
    def bucket(name: str) -> int:
        """Return the bucket of a name."""
        name = known_by(name)
        tag = name.partition("{")[2].partition("}")
        return zlib.crc32((tag[0] if tag[1] and tag[0] else name).encode("utf-8", "surrogatepass")) % BUCKETS

    def _stem(self, name: str) -> str:
        return f"{self.prefix}:{{{self.bucket(name)}}}:{escape(name)}"

    def _index(self, kind: str, bucket: int) -> str:
        return f"{self.prefix}:{{{bucket}}}:index:{kind}"

    def index(self, kind: str, name: str) -> str:
        """Return the key of the index in the bucket of ``name``."""
        return self._index(kind, self.bucket(name))

    def indexes(self, kind: str) -> list[str]:
        """Return one key for each bucket."""
        return [self._index(kind, bucket) for bucket in range(BUCKETS)]
