"""Pack calls into the bytes of their EVALSHA. What many calls have in common is packed once.

The protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/ (an array of bulk strings).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ...policies import Policy
from ...protocol.call import Call


def text(value: str) -> bytes:
    """Pack one argument."""
    data = value.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=1024)
def numbers(values: tuple[int, ...]) -> bytes:
    """Pack several arguments."""
    return b"".join([text(str(value)) for value in values])


def keys(names: Sequence[str]) -> tuple[int, bytes]:
    """Return how many keys there are, and all of them packed."""
    return len(names), b"".join(map(text, names))


_NO_TIME = text("")
"""An empty time: the server's clock decides."""


@lru_cache(maxsize=128)
def _policy(policy: Policy) -> tuple[int, bytes]:
    """Return how many arguments a call of the policy has, and the first one packed."""
    return 2 + len(policy.event) + len(policy.config), text(policy.name)


def pack(sha: str, calls: Sequence[Call], named: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the EVALSHA of ``calls``, whose packed :func:`keys` are ``named``."""
    count, arguments = 4, [_NO_TIME]
    for policy, _, event, config, lease_id in calls:
        more, name = _policy(policy)
        count += more
        arguments += (name, text(lease_id), numbers(event), numbers(config))
    many = sum([number for number, _ in named])
    words = b"*%d\r\n$7\r\nEVALSHA\r\n" % (count + many), text(sha), text(str(many))
    return b"".join([*words, *[names for _, names in named], *arguments])
