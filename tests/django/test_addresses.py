"""The client's address: nobody else may choose it."""

from __future__ import annotations

import time

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core import ConfigurationError
from ratelimit_core.django.limits.addresses import UNKNOWN, Networks, Proxies, group, parse

FACTORY = RequestFactory()
PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48"]


def client(proxies: list[str], remote: str, x_forwarded_for: str | None = None, forwarded: str | None = None) -> str:
    request = FACTORY.get("/", REMOTE_ADDR=remote)
    for name, value in (("HTTP_X_FORWARDED_FOR", x_forwarded_for), ("HTTP_FORWARDED", forwarded)):
        if value is not None:
            request.META[name] = value
    return str(Proxies(proxies).client(request))


@pytest.mark.parametrize(
    ("remote", "header", "expected"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # no proxy of ours: its header is anybody's claim
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what stands left of the client is its claim
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2,10.9.9.9", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1,", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:ffff::7", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1\r\nX-Evil: 1", "10.0.0.1"),
        ("", "198.51.100.1", "None"),
        ("unix:", "198.51.100.1", "None"),
    ],
)
def test_x_forwarded_for_is_read_from_right_to_left(remote: str, header: str | None, expected: str) -> None:
    assert client(PROXIES, remote, header) == expected


def test_without_trusted_proxies_no_header_counts() -> None:
    assert client([], "10.0.0.1", "198.51.100.1", "for=198.51.100.1") == "10.0.0.1"


def test_a_unix_socket_is_trusted_by_its_word_only() -> None:
    assert client(["unix"], "", "198.51.100.1") == "198.51.100.1"
    assert client(["unix"], "", None) == "None"
    assert client(["unix"], "198.51.100.7", "198.51.100.1") == "198.51.100.7"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ('For="198.51.100.1:80";proto=http;by=10.0.0.1', "198.51.100.1"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=1.1.1.1, for=198.51.100.1;proto=https, for=10.0.0.2", "198.51.100.1"),
        ("for=198.51.100.1, for=unknown", "10.0.0.1"),
        ("for=198.51.100.1, for=_hidden, for=10.0.0.2", "10.0.0.2"),
        ("proto=https", "10.0.0.1"),
        ("nonsense", "10.0.0.1"),
        ("", "10.0.0.1"),
        ('for=198.51.100.1;host="evil,for=6.6.6.6"', "198.51.100.1"),  # a proxy quotes what the client chose
        (r'for=198.51.100.1;host="evil\",for=6.6.6.6"', "198.51.100.1"),
        ('for="6.6.6.6, for=198.51.100.1;host="a"', "198.51.100.1"),  # a quote that the client left open
        (r"for=1\", for=198.51.100.1", "198.51.100.1"),
    ],
)
def test_forwarded_is_read_where_the_proxies_write_it(header: str, expected: str) -> None:
    assert client([*PROXIES, "forwarded"], "10.0.0.1", "9.9.9.9", header) == expected


def test_only_one_of_the_two_headers_is_ever_read() -> None:
    assert client(PROXIES, "10.0.0.1", None, "for=6.6.6.6") == "10.0.0.1"
    assert client([*PROXIES, "forwarded"], "10.0.0.1", "6.6.6.6", None) == "10.0.0.1"


@pytest.mark.parametrize("words", [[], ["forwarded"]])
def test_so_many_proxies_are_followed_and_no_more(words: list[str]) -> None:
    hops = [f"10.0.1.{i}" for i in range(40)]
    headers = ", ".join(hops), ", ".join(f"for={hop}" for hop in hops)
    assert client([*PROXIES, *words], "10.0.0.1", *headers) == hops[-32]


@pytest.mark.parametrize("words", [[], ["forwarded"]])
def test_ten_thousand_entries_cost_little(words: list[str]) -> None:
    hops = ", ".join(["10.0.0.2"] * 10_000)
    forwarded = ", ".join(["for=10.0.0.2"] * 10_000)
    started = time.process_time()
    assert client([*PROXIES, *words], "10.0.0.1", hops, forwarded) == "10.0.0.2"
    quotes = client([*PROXIES, *words], "10.0.0.1", '"\\' * 30_000, '"\\' * 30_000)
    assert quotes == "10.0.0.1"
    assert time.process_time() - started < 0.1


@given(st.text(), st.sampled_from(["10.0.0.1", "", "203.0.113.9", "nonsense"]), st.booleans())
def test_no_header_breaks_anything(header: str, remote: str, forwarded: bool) -> None:
    client(["10.0.0.0/8", "unix", *(["forwarded"] if forwarded else [])], remote, header, header)


@given(st.text(max_size=100))
def test_what_a_client_sends_never_outweighs_what_the_proxy_adds(claim: str) -> None:
    assert client(PROXIES, "10.0.0.1", f"{claim}, 198.51.100.1") == "198.51.100.1"
    element = 'for=198.51.100.1;proto=https;host="a"'
    assert client([*PROXIES, "forwarded"], "10.0.0.1", None, f"{claim}, {element}") == "198.51.100.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:80", "2001:db8:1:2::/64"),
        ("nonsense", UNKNOWN),
        ("1" * 10_000, UNKNOWN),
    ],
)
def test_ipv6_counts_by_network(text: str, expected: str) -> None:
    assert group(parse(text)) == expected


def test_networks_hold_mapped_addresses_and_host_bits() -> None:
    networks = Networks(["10.1.2.3/8", "::ffff:192.0.2.0/120"], "allow_list")
    assert parse("10.200.0.1") in networks
    assert parse("192.0.2.77") in networks
    assert parse("192.0.3.1") not in networks
    assert None not in networks


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "proxy.example", "", 7, None, 3232235521])
def test_an_entry_that_is_no_address_is_an_error_that_names_it(entry: object) -> None:
    with pytest.raises(ConfigurationError, match="RATELIMIT_TRUSTED_PROXIES") as caught:
        Proxies([entry])
    assert repr(entry) in str(caught.value)
