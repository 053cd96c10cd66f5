"""Headers of requests in every malformed shape, and those of responses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_core.backends import MemoryBackend
from ratelimit_core.django.decorators import rate_limit
from ratelimit_core.django.limits.addresses import UNKNOWN, Proxies
from tests.security.names import HOSTILE
from tests.security.test_names import fine

FACTORY = RequestFactory()
TRUSTED = ["10.0.0.1", "10.255.255.255", "2001:db8:ffff::1", "::ffff:10.0.0.9"]
OTHERS = ["203.0.113.9", "2001:db8::1", "127.0.0.1", "0.0.0.0", "::", "fe80::1%eth0"]
BROKEN = [
    "unknown",
    "_hidden",
    "999.1.1.1",
    "10.0.0",
    "[::1",
    "::1]",
    "1" * 100,
    "0x7f.1",
    "10.0.0.1.evil",
    "",
]
BROKEN.append("\u0661\u0662\u0667.0.0.1")  # digits, to Unicode
PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48", "unix"]

address = st.sampled_from([*TRUSTED, *OTHERS])
port = st.sampled_from(["", ":80", ":99999", ":x", ":"])
entry = st.one_of(
    st.builds(lambda text, end: f"[{text}]{end}" if ":" in text else text + end, address, port),
    address,
    st.sampled_from(BROKEN),
    st.text(max_size=12),
)
glue = st.sampled_from([",", ", ", ",,", ";", " ", "\t,", ",\r\n ", '",', "\\,", "\x00"])
shapes = st.lists(st.tuples(entry, glue), max_size=45).map(lambda parts: "".join(a + b for a, b in parts))
name = st.sampled_from(["for", "For", " for", "for ", "by", "host", "proto", "", "for=for"])
quotes = st.sampled_from(["{}", '"{}"', '"{}', '{}"', '"\\{}"', "'{}'"])
element = st.builds(
    lambda key, value, form: f"{key}={form.format(value)}", name, entry.map(lambda e: e.replace("{", "")), quotes
)
forwarded = st.lists(st.tuples(element, glue), max_size=20).map(lambda parts: "".join(a + b for a, b in parts))
headers = st.one_of(
    shapes, forwarded, st.text(max_size=200), st.binary(max_size=99).map(lambda data: data.decode("latin-1"))
)


def origin(proxies: list[str], remote: str, header: str, of: str) -> Any:
    request = FACTORY.get("/")
    request.META |= {"REMOTE_ADDR": remote, of: header}
    return Proxies(proxies).origin(request)


@pytest.mark.parametrize(("words", "of"), [([], "HTTP_X_FORWARDED_FOR"), (["forwarded"], "HTTP_FORWARDED")])
@given(header=headers, remote=st.one_of(address, st.sampled_from([*BROKEN, "unix:"])))
def test_what_comes_out_is_an_address_and_believed_no_further_than_proxies_go(
    words: list[str], of: str, header: str, remote: str
) -> None:
    hop = origin([*PROXIES, *words], remote, header, of)
    assert hop.address is None or type(hop.address) in (IPv4Address, IPv6Address)
    assert hop.group == UNKNOWN or ip_network(hop.group) is not None
    near = origin([*PROXIES, *words], remote, "", of)
    if not near.trusted:
        assert hop == near
    assert origin(words, remote, header, of).address == near.address or remote == "", "nobody is trusted"


@given(
    claim=headers,
    client=st.sampled_from(OTHERS),
    between=st.lists(st.sampled_from(TRUSTED), max_size=30),
)
def test_the_first_that_is_no_proxy_is_the_client(claim: str, client: str, between: list[str]) -> None:
    chain = [client, *between]
    alone = origin(PROXIES, "10.0.0.1", client, "HTTP_X_FORWARDED_FOR")
    assert not alone.trusted
    assert origin(PROXIES, "10.0.0.1", ", ".join([claim, *chain]), "HTTP_X_FORWARDED_FOR") == alone
    proxies = [*PROXIES, "forwarded"]
    elements = [f'for="[{each}]"' if ":" in each else f"for={each};proto=http" for each in chain]
    assert origin(proxies, "10.0.0.1", ", ".join([claim, *elements]), "HTTP_FORWARDED") == alone


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_name_and_no_key_gets_into_a_header(requests: RequestFactory, text: str) -> None:
    store = MemoryBackend()
    views = [
        rate_limit(lambda request: text, "1/h", backend=store, scope=text)(fine),
        rate_limit("header:x-who", "1/h", backend=store, response_callback=lambda *_: HttpResponse(status=429))(fine),
    ]
    for view in views:
        for _ in range(2):
            request = requests.get("/")
            request.META["HTTP_X_WHO"] = text
            response = view(request)
            for field, value in response.headers.items():
                assert field.isascii()
                assert value.isprintable()
                assert len(text) < 5 or text not in value
        assert response.status_code == 429
