"""Whose request it is: the client's address, also behind proxies, and never what just anybody claims.

``X-Forwarded-For`` is read only where the connection comes from a proxy that ``RATELIMIT_TRUSTED_PROXIES`` names, and
then from right to left: each proxy adds who spoke to it, so the first address that is no trusted proxy is the
client, and whatever stands left of it is the client's own claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import NamedTuple

from django.http import HttpRequest

from ..._util.suggest import did_you_mean
from ...errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNKNOWN = "unknown"
"""Where there is no address, as on a Unix socket; all such requests are one client."""

_WORDS = ("unix", "forwarded")
_MAX_HOPS = 32
_MAX_TEXT = 64
_MAX_FORWARDED = 4096
_IPV6_PREFIX = 64
_PAIR = re.compile(r"""\s*([!#$%&'*+.^_`|~\w-]+)=("(?:[^"\\]|\\.)*"|[^";,\s]*)\s*(?:;|$)""", re.ASCII)


class Networks:
    """Addresses and networks, as people list them: ``["10.0.0.0/8", "2001:db8::1"]``.

    Raises:
        ConfigurationError: one of them is neither; the message names it, and ``where``, and which of ``words``,
            that may stand there too, it may have been meant to be.
    """

    def __init__(self, listed: Iterable[object], where: str, words: Iterable[str] = ()) -> None:
        self._networks = [_network(each, where, words) for each in listed]
        self._known = lru_cache(1024)(self._holds)

    def __contains__(self, address: Address | None) -> bool:
        return address is not None and self._known(address)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def _holds(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


class Hop(NamedTuple):
    """One of those that a request came by: its address, who that counts as, and whether what it says is believed."""

    address: Address | None
    group: str
    trusted: bool


class Proxies:
    """The proxies whose word counts: what ``RATELIMIT_TRUSTED_PROXIES`` lists.

    Two words may stand among the addresses and networks: ``"unix"`` trusts who connects without an address, by a
    Unix socket; ``"forwarded"`` says that these proxies write ``Forwarded`` (RFC 7239), which is then read in place of
    ``X-Forwarded-For``. Never both: a client could forge whichever the proxy leaves alone.

    Raises:
        ConfigurationError: an entry is none of these.
    """

    def __init__(self, listed: Sequence[object]) -> None:
        words = {entry for entry in listed if entry in _WORDS}
        self._unix = "unix" in words
        self._forwarded = "forwarded" in words
        networks = [entry for entry in listed if entry not in words]
        self._networks = Networks(networks, "RATELIMIT_TRUSTED_PROXIES", _WORDS)
        self._known = lru_cache(4096)(self._hop)

    def client(self, request: HttpRequest) -> Address | None:
        """The client's address; None if nobody knows it."""
        return self.origin(request).address

    def origin(self, request: HttpRequest) -> Hop:
        """The client.

        What can't be read ends the search: the proxy that wrote it counts in its place. At most 32 proxies are
        followed, however long the header.
        """
        remote = request.META.get("REMOTE_ADDR") or ""
        client = self._known(remote if len(remote) <= _MAX_TEXT else UNKNOWN)
        if not client.trusted:
            return client
        for entry in self._entries(request):
            hop = self._known(entry if len(entry) <= _MAX_TEXT else UNKNOWN)
            if hop.address is None:
                break
            client = hop
            if not hop.trusted:
                break
        return client

    def _hop(self, text: str) -> Hop:
        address = parse(text)
        trusted = address in self._networks if address is not None else self._unix and not text
        return Hop(address, group(address), trusted)

    def _entries(self, request: HttpRequest) -> Iterable[str]:
        """Who spoke to whom, the nearest first."""
        if self._forwarded:
            return map(_forwarded_for, islice(_elements(request.META.get("HTTP_FORWARDED", "")), _MAX_HOPS))
        header = request.META.get("HTTP_X_FORWARDED_FOR", "")
        return reversed(header.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]) if header else ()


def parse(text: str) -> Address | None:
    """An address as proxies write it: with or without port, brackets and zone. None if it is none."""
    if len(text) > _MAX_TEXT:
        return None
    text = text.strip()
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def group(address: Address | None) -> str:
    """Who counts as one client: an IPv4 address, or an IPv6 network of 64 bits, which one customer gets as a whole."""
    if address is None:
        return UNKNOWN
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))


def _network(listed: object, where: str, words: Iterable[str]) -> Network:
    if isinstance(listed, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        try:
            network = ip_network(listed, strict=False)
        except ValueError:
            pass
        else:
            mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
            if mapped is None or network.prefixlen < 96:
                return network
            return IPv4Network((mapped, network.prefixlen - 96), strict=False)
    hint = f"as '192.0.2.1' or '10.0.0.0/8'{did_you_mean(listed, words)}"
    raise ConfigurationError(f"{where}: {listed!r} should be an address or a network, {hint}")


def _elements(header: str) -> Iterator[str]:
    """The elements of a ``Forwarded`` header from right to left.

    Read from the right, an unbalanced quote that the client sent can't swallow what a proxy added behind it.
    """
    header = header[-_MAX_FORWARDED:]
    end, quoted = len(header), False
    for i in range(len(header) - 1, -1, -1):
        if header[i] == '"':
            quoted ^= not _escaped(header, i)
        elif header[i] == "," and not quoted:
            yield header[i + 1 : end]
            end = i
    if end:
        yield header[:end]


def _escaped(header: str, i: int) -> bool:
    before = header[:i]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _forwarded_for(element: str) -> str:
    """The ``for`` of one element; empty if it has none or can't be read."""
    found, at = "", 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            found = pair[2]
        at = pair.end()
    return re.sub(r"\\(.)", r"\1", found[1:-1]) if found.startswith('"') else found
