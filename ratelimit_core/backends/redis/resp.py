"""Pack calls into the bytes of one EVALSHA. The parts that many calls have in common are cached.

The protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/ (an array of bulk strings).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ...policies import Policy
from ...protocol.call import Call
from ..batches import Batches


def text(value: str) -> bytes:
    """Pack one argument."""
    data = value.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=1024)
def numbers(values: tuple[int, ...]) -> bytes:
    """Pack several numbers, each as one argument."""
    return b"".join([text(str(value)) for value in values])


def keys(names: Sequence[str]) -> tuple[int, bytes]:
    """Return the number of keys, and the packed keys."""
    return len(names), b"".join(map(text, names))


_NO_TIME = text("")
"""The argument in place of a time. It is empty, so that the server's clock is used."""


@lru_cache(maxsize=128)
def _policy(policy: Policy) -> tuple[int, bytes]:
    """Return how many arguments a call of the policy has, and the packed first argument."""
    return 2 + len(policy.event) + len(policy.config), text(policy.name)


def pack(sha: str, calls: Sequence[Call], named: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the packed EVALSHA of ``calls``. ``named`` has the result of :func:`keys` for each call."""
    arguments = [_NO_TIME]
    count = 1 + _append(arguments, calls)
    return _evalsha(sha, named, count, arguments)


def pack_each(sha: str, batches: Batches, named: Sequence[tuple[int, bytes]], most: int | None) -> bytes:
    """Return the packed EVALSHA of several batches. ``named`` has the keys of all their calls: see :func:`pack`."""
    count, arguments = 2, [_NO_TIME, text("" if most is None else str(most))]
    for calls in batches:
        of_batch: list[bytes] = []
        number = _append(of_batch, calls)
        arguments += (numbers((number,)), *of_batch)
        count += 1 + number
    return _evalsha(sha, named, count, arguments)


def _append(arguments: list[bytes], calls: Sequence[Call]) -> int:
    """Append the packed arguments of ``calls`` to ``arguments``, and return their number."""
    count = 0
    for policy, _, event, config, lease_id in calls:
        more, name = _policy(policy)
        count += more
        arguments += (name, text(lease_id), numbers(event), numbers(config))
    return count


def _evalsha(sha: str, named: Sequence[tuple[int, bytes]], count: int, arguments: Sequence[bytes]) -> bytes:
    many = sum([number for number, _ in named])
    words = b"*%d\r\n$7\r\nEVALSHA\r\n" % (3 + count + many), text(sha), text(str(many))
    return b"".join([*words, *[names for _, names in named], *arguments])
