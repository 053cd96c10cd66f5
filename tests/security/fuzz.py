"""Fuzzing by coverage: ``python -m tests.security.fuzz TARGET CORPUS -max_total_time=60``; options are libFuzzer's.

What strangers send is made up by Atheris, which looks for new ways through the code that reads it, and keeps in the
directory CORPUS what found one.
"""

from __future__ import annotations

import sys
import urllib.error
from contextlib import suppress
from email.message import Message
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import atheris
from django.conf import settings

atheris.enabled_hooks.add("str")
with atheris.instrument_imports(include=["ratelimit_core", "resilient_tasks"]):
    from ratelimit_core import Rate
    from ratelimit_core.django.limits.addresses import UNKNOWN, Proxies
    from ratelimit_core.errors import ConfigurationError
    from ratelimit_core.limiter.limit import Limit
    from ratelimit_core.policies import LIMITS
    from ratelimit_core.protocol.names import MAX_KEY, escape, unescape
    from ratelimit_core.retry_after import parse_retry_after
    from resilient_tasks.execution.wait_header import HEADER, SLOT, Waiting

settings.configure(ALLOWED_HOSTS=["*"])
from django.test import RequestFactory  # noqa: E402

FACTORY = RequestFactory()
PROXIES = [Proxies(["10.0.0.0/8", "2001:db8:ffff::/48", *words]) for words in ([], ["forwarded"])]
PROXY = "10.0.0.1"


def addresses(given: bytes) -> None:
    """Both headers: an address comes out, or none; and before a stranger's own, whatever he claims is his."""
    text = given.decode("latin-1")
    for proxies in PROXIES:
        request = FACTORY.get("/")
        request.META |= {"REMOTE_ADDR": PROXY, "HTTP_X_FORWARDED_FOR": text, "HTTP_FORWARDED": text}
        hop = proxies.origin(request)
        assert hop.address is None or type(hop.address) in (IPv4Address, IPv6Address)
        assert hop.group == UNKNOWN or ip_network(hop.group) is not None
        request.META |= {
            "HTTP_X_FORWARDED_FOR": f"{text}, 203.0.113.9",
            "HTTP_FORWARDED": f"{text}, for=203.0.113.9;proto=http",
        }
        assert str(proxies.origin(request).address) == "203.0.113.9"


FIELDS = ["deferrals", "waited", "slot", "until", "version"]


def something(provider: Any, depth: int = 3) -> Any:
    """Whatever JSON can say, and more."""
    kinds = 9 if depth else 7
    match provider.ConsumeIntInRange(0, kinds):
        case 0:
            return None
        case 1:
            return provider.ConsumeBool()
        case 2:
            return provider.ConsumeInt(provider.ConsumeIntInRange(1, 40))
        case 3:
            return provider.ConsumeFloat()
        case 4:
            return provider.ConsumeUnicode(12) + SLOT
        case 5 | 6 | 7:
            return provider.ConsumeUnicode(12)
        case 8:
            return [something(provider, depth - 1) for _ in range(provider.ConsumeIntInRange(0, 4))]
    return {field: something(provider, depth - 1) for field in FIELDS if provider.ConsumeBool()}


def messages(given: bytes) -> None:
    """A header of a message: what is made of it is bounded, and is made of it again."""
    read = something(atheris.FuzzedDataProvider(given))
    for headers in ({HEADER: read}, read):
        waiting = Waiting.of({HEADER: Waiting.of(headers).header()})  # which rounds
        assert Waiting.of({HEADER: waiting.header()}) == waiting
        assert waiting.slot is None or waiting.slot[1].endswith(SLOT)
        assert 0 <= waiting.too_early <= 31 * 86400


def retry_after(given: bytes) -> None:
    """An upstream's header: a time within a month, or none."""
    headers = Message()
    headers["Retry-After"] = given.decode("latin-1")
    asked = parse_retry_after(urllib.error.HTTPError("", 503, "", headers, None))
    assert asked is None or 0 < asked < 31 * 86400


def keys(given: bytes) -> None:
    """Names, and what stands in keys of a store."""
    text = given.decode("utf-8", "surrogateescape")
    stored = escape(text)
    assert len(stored) <= MAX_KEY
    assert stored.isascii()
    assert not set(stored) & set("{} :\n\x00")
    assert escape(unescape(stored)) == stored
    assert "%%" in stored or unescape(stored) == text
    for policy in LIMITS:
        limit = Limit.of_key(policy, text)
        assert limit is None or limit.policy is policy
    with suppress(ConfigurationError):
        assert Rate.parse(text) == Rate.parse(str(Rate.parse(text)))


SEEDS = {
    "addresses": ["203.0.113.9, 10.0.0.2", 'for="[2001:db8::1]:80";proto=http, for=unknown', "for=_x;by=10.0.0.3"],
    "messages": ["x" * 300],
    "retry_after": ["120", "Wed, 21 Oct 2026 07:28:00 GMT", "1e3", "Wed, 21 Oct 2026 07:28:00 -0000"],
    "keys": ["10/s", "5/2m burst 7", "%41%%", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "x" * 250],
}
TARGETS = {target.__name__: target for target in (addresses, messages, retry_after, keys)}

if __name__ == "__main__":
    name, corpus, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(SEEDS[name]):
        (corpus / str(i)).write_text(seed, "latin-1")
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix={corpus}-", *options], TARGETS[name])
    atheris.Fuzz()
