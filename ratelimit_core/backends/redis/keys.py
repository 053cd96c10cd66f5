"""Names of records, leases, journals and indexes in Redis."""

from __future__ import annotations

import zlib

from ...policies import Policy
from ...protocol.call import Key
from ...protocol.names import escape, known_by, unescape

BUCKETS = 64
"""The number of cluster slots in use. If this number changes, most stored records are no longer found."""

JOURNAL = "journal"
"""The word that takes the place of a policy's name in the key of a journal."""


class Keys:
    """Names for a single server.

    A record is stored under ``prefix:{name}:policy:qualifier``. The leases of the record are stored under the record's
    key followed by ``:leases``. If a policy has leases but no record, the leases are stored under the key without
    ``:leases``. Each policy has one index, ``prefix:index:policy``. All journals share another index.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = escape(prefix).replace("%3A", ":")

    def _stem(self, name: str) -> str:
        return f"{self.prefix}:{{{escape(name)}}}"

    def record(self, policy: Policy, key: Key) -> list[str]:
        """Return the keys of one record and its leases. The index lists only the first of these keys."""
        return self.beside(policy, f"{self._stem(key[0])}:{policy.name}:{escape(key[1])}")

    def of(self, policy: Policy, key: Key) -> list[str]:
        """Return the keys that a call uses: the keys of its record, and the key of the index."""
        return [*self.record(policy, key), self.index(policy.name, key[0])]

    def beside(self, policy: Policy, first: str) -> list[str]:
        """Return ``first``, a key that an index lists, and the key of the leases if it is another key."""
        return [first, f"{first}:leases"] if policy.record and policy.leases else [first]

    def journal(self, key: Key) -> str:
        """Return the key of a journal."""
        return f"{self._stem(key[0])}:{JOURNAL}:{escape(key[1])}"

    def index(self, kind: str, name: str) -> str:
        """Return the key of the index that lists ``name``. ``kind`` is the name of a policy, or :data:`JOURNAL`."""
        return f"{self.prefix}:index:{kind}"

    def indexes(self, kind: str) -> list[str]:
        """Return the keys of all indexes of ``kind``, which is the name of a policy, or :data:`JOURNAL`."""
        return [f"{self.prefix}:index:{kind}"]

    def parse(self, stored: str) -> Key:
        """Return the name and the qualifier of the record whose first key is ``stored``."""
        name, _, qualifier = stored[len(self.prefix) :].split(":")[-3:]
        return unescape(name.strip("{}")), unescape(qualifier)


class ClusterKeys(Keys):
    """Names for a cluster.

    A record is stored under ``prefix:{bucket}:name:policy:qualifier``. The name selects one of :data:`BUCKETS` buckets,
    so records of one name share a cluster slot. Each bucket has its own indexes.

    If a name has a part in braces, only that part selects the bucket, as in Redis itself. ``payments``, ``{payments}``
    and ``eu:{payments}`` share a bucket. In a name that is too long and therefore shortened, braces have no effect.
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
        """Return the keys of the indexes in all buckets."""
        return [self._index(kind, bucket) for bucket in range(BUCKETS)]
