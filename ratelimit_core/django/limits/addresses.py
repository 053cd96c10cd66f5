"""Find the client's address, also behind proxies. A client can't forge the address.

``X-Forwarded-For`` is read only if the connection comes from a proxy of ``RATELIMIT_TRUSTED_PROXIES``. It is read from
right to left, because each proxy appends the address that has connected to the proxy. The first address that is not a
trusted proxy is the client. Everything to the left of that address may be forged, because the client may have sent it.
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
"""The group of requests without an address, such as over a Unix socket. These requests count as one client."""

_WORDS = ("unix", "forwarded")
_MAX_HOPS = 32
_MAX_TEXT = 64
_MAX_FORWARDED = 4096
_IPV6_PREFIX = 64
_PAIR = re.compile(r"""\s*([!#$%&'*+.^_`|~\w-]+)=("(?:[^"\\]|\\.)*"|[^";,\s]*)\s*(?:;|$)""", re.ASCII)


class Networks:
    """A set of addresses and networks, made from a list such as ``["10.0.0.0/8", "2001:db8::1"]``.

    Raises:
        ConfigurationError: an entry is not an address or a network. The message shows the entry and ``where``, and
            suggests the nearest of ``words``, which are allowed in the same list.
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
    """One hop of a request: the address, the client that the address counts as, and whether the hop is trusted."""

    address: Address | None
    group: str
    trusted: bool


class Proxies:
    """The trusted proxies of ``RATELIMIT_TRUSTED_PROXIES``.

    The list may contain two words besides addresses and networks. ``"unix"`` trusts connections over a Unix socket,
    which have no address. ``"forwarded"`` says that the proxies write ``Forwarded`` (RFC 7239), which is then read
    instead of ``X-Forwarded-For``. Only one of the two headers is read, because a client could forge the header that
    the proxies do not write.

    Raises:
        ConfigurationError: an entry is not an address, a network or one of these words.
    """

    def __init__(self, listed: Sequence[object]) -> None:
        words = {entry for entry in listed if entry in _WORDS}
        self._unix = "unix" in words
        self._forwarded = "forwarded" in words
        networks = [entry for entry in listed if entry not in words]
        self._networks = Networks(networks, "RATELIMIT_TRUSTED_PROXIES", _WORDS)
        self._known = lru_cache(4096)(self._hop)

    def client(self, request: HttpRequest) -> Address | None:
        """Return the client's address, or None if the address is unknown."""
        return self.origin(request).address

    def origin(self, request: HttpRequest) -> Hop:
        """Return the hop that is the client.

        An unreadable entry ends the search, and the proxy that wrote the entry counts as the client. At most 32 entries
        are read.
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
        """Return the addresses in the header, the nearest hop first."""
        if self._forwarded:
            return map(_forwarded_for, islice(_elements(request.META.get("HTTP_FORWARDED", "")), _MAX_HOPS))
        header = request.META.get("HTTP_X_FORWARDED_FOR", "")
        return reversed(header.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]) if header else ()


def parse(text: str) -> Address | None:
    """Parse an address as proxies write it, with or without port, brackets and zone. Return None for other text."""
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
    """Return the name of the client: the IPv4 address, or the /64 network of an IPv6 address.

    Internet providers assign a whole /64 network to one customer.
    """
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
    hint = f"such as '192.0.2.1' or '10.0.0.0/8'{did_you_mean(listed, words)}"
    raise ConfigurationError(f"{where}: {listed!r} should be an address or a network, {hint}")


def _elements(header: str) -> Iterator[str]:
    """Yield the elements of a ``Forwarded`` header from right to left.

    In this direction, an unbalanced quote that the client sent can't hide the elements that proxies appended.
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
    """Return the ``for`` of one element, or ``""`` if the element is unreadable or has no ``for``."""
    found, at = "", 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            found = pair[2]
        at = pair.end()
    return re.sub(r"\\(.)", r"\1", found[1:-1]) if found.startswith('"') else found
