"""Calls as the bytes of their EVALSHA: what stays the same from one question to the next is packed once.

The protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/ (an array of bulk strings).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ...policies import Policy
from ...protocol.call import Call


def text(value: str) -> bytes:
    """One argument."""
    data = value.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=1024)
def numbers(values: tuple[int, ...]) -> bytes:
    """Several arguments."""
    return b"".join([text(str(value)) for value in values])


def keys(names: Sequence[str]) -> tuple[int, bytes]:
    """How many they are, and all of them."""
    return len(names), b"".join(map(text, names))


_NO_TIME = text("")
"""The server's clock decides."""


@lru_cache(maxsize=128)
def _policy(policy: Policy) -> tuple[int, bytes]:
    """How many arguments a call of it has, and the first of them."""
    return 2 + len(policy.event) + len(policy.config), text(policy.name)


def pack(sha: str, calls: Sequence[Call], named: Sequence[tuple[int, bytes]]) -> bytes:
    """The EVALSHA of ``calls``, whose :func:`keys` are ``named``."""
    count, arguments = 4, [_NO_TIME]
    for policy, _, event, config, ticket in calls:
        more, name = _policy(policy)
        count += more
        arguments += (name, text(ticket), numbers(event), numbers(config))
    many = sum([number for number, _ in named])
    words = b"*%d\r\n$7\r\nEVALSHA\r\n" % (count + many), text(sha), text(str(many))
    return b"".join([*words, *[names for _, names in named], *arguments])
