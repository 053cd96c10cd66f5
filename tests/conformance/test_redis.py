"""What is on the wire and on the server: one command a call, an end to every key, nothing misread."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import RedisBackend
from ratelimit_core.errors import BackendError
from ratelimit_core.policies import (
    ALLOWED,
    BREAKER,
    CONCURRENCY,
    EXPIRES,
    FIXED_WINDOW,
    LIMITS,
    PLACE,
    POLICIES,
    Policy,
    Verdict,
)
from ratelimit_core.policies.circuit_breaker import ASK, REPORT
from ratelimit_core.policies.place import TAKE, TOUCH, TURN
from ratelimit_core.protocol.names import MAX_KEY, escape
from tests.servers import PATIENT

from .test_stores import HIT, PEEK, REFUND, ask, every_limit, every_policy, left, use

RESERVE = 3
CONNECTING = {"HELLO", "CLIENT"}


@pytest.fixture(params=["valkey_url", "redis_url"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(request.getfixturevalue(request.param)) as client:
        yield client


@pytest.fixture
def backend(client: redis.Redis) -> Iterator[RedisBackend]:
    """On the server's own clock."""
    backend = RedisBackend(client=client, key_prefix=f"test-{uuid.uuid4().hex}")
    yield backend
    backend.clear()


@pytest.fixture
def sent(valkey_url: str) -> Callable[[Callable[[], object]], list[str]]:
    """The commands that clients send while something is done; what scripts do is left out."""

    def watch(action: Callable[[], object]) -> list[str]:
        end = uuid.uuid4().hex
        commands: list[str] = []
        with redis.Redis.from_url(valkey_url) as client, client.monitor() as monitor:
            action()
            client.echo(end)
            for line in monitor.listen():
                if end in line["command"]:
                    return commands
                command = line["command"].split(" ")[0].upper()
                if line["client_type"] != "lua" and command not in CONNECTING:
                    commands.append(command)
        raise AssertionError("the monitor ended")

    return watch


@pytest.fixture
def watched(valkey_url: str) -> Iterator[RedisBackend]:
    backend = RedisBackend(valkey_url, key_prefix=f"test-{uuid.uuid4().hex}", **PATIENT)
    yield backend
    backend.clear()
    backend.close()


def stored(client: redis.Redis, backend: RedisBackend) -> set[bytes]:
    return set(client.scan_iter(f"{backend._prefix}:*", count=10_000))


CALLS = [use(policy, ("a", "b")) for policy in POLICIES.values()]


def test_any_number_of_calls_is_one_evalsha(
    watched: RedisBackend, sent: Callable[[Callable[[], object]], list[str]]
) -> None:
    watched.apply(CALLS)
    assert sent(lambda: watched.apply(CALLS)) == ["EVALSHA"]
    watched.apply(CALLS[:1])
    assert sent(lambda: watched.apply(CALLS[:1])) == ["EVALSHA"]


def test_any_number_of_batches_is_one_evalsha(
    watched: RedisBackend, sent: Callable[[Callable[[], object]], list[str]]
) -> None:
    batches = [CALLS[i % 3 :] for i in range(64)]
    assert sent(lambda: watched.apply_each(batches)) == ["EVALSHA", "EVAL"]
    assert sent(lambda: watched.apply_each(batches, 5)) == ["EVALSHA"]
    assert sent(lambda: asyncio.run(watched.aapply_each(batches))) == ["EVALSHA"]
    assert sent(lambda: watched.apply_each([[], []])) == []


def test_the_servers_clock_is_read_once_for_all_batches(backend: RedisBackend) -> None:
    verdicts = backend.apply_each([[ask(FIXED_WINDOW, (str(i), ""))] for i in range(64)])
    assert len({verdict[EXPIRES] for (verdict,) in verdicts}) == 1


BATCHES = [[ask(FIXED_WINDOW, (name, "")), ask(CONCURRENCY, (name, ""), lease_id=name)] for name in "abc"]
DENIED = {FIXED_WINDOW: [0, *range(6)], CONCURRENCY: [0, *range(7)]}
ALLOWED_BATCH = [[1, *range(6)], [1, *range(7)]]
WRONG = {
    "no list": b"OK",
    "none": None,
    "too few": [ALLOWED_BATCH],
    "too many allowed": [ALLOWED_BATCH] * 3,
    "too many": [[DENIED[FIXED_WINDOW], DENIED[CONCURRENCY]]] * 4,
    "a batch that is no list": [ALLOWED_BATCH, 1],
    "a batch too short": [ALLOWED_BATCH, ALLOWED_BATCH[:1]],
    "an undecided batch": [ALLOWED_BATCH, []],
    "a verdict too short": [ALLOWED_BATCH, [ALLOWED_BATCH[0][:-1], ALLOWED_BATCH[1]]],
    "a verdict that is no list": [ALLOWED_BATCH, [1, 2]],
    "no numbers": [ALLOWED_BATCH, [ALLOWED_BATCH[0], [b"1"] * 8]],
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
def test_a_damaged_answer_to_batches_is_an_error(
    watched: RedisBackend, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(watched._session, "send", lambda packed, script: answer)
    with pytest.raises(BackendError):
        watched.apply_each(BATCHES, 2)


def test_a_right_answer_to_batches_is_none(watched: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [ALLOWED_BATCH, ALLOWED_BATCH]
    monkeypatch.setattr(watched._session, "send", lambda packed, script: answer)
    assert watched.apply_each(BATCHES, 2) == [[*map(tuple, batch)] for batch in answer] + [[]]


def test_a_server_that_forgot_the_script_is_told_it_in_the_same_call(
    watched: RedisBackend, valkey_url: str, sent: Callable[[Callable[[], object]], list[str]]
) -> None:
    watched.apply([ask(LIMITS[0], lease_id="a")])
    with redis.Redis.from_url(valkey_url) as admin:
        admin.script_flush()
    assert sent(lambda: watched.apply([ask(LIMITS[0], lease_id="b")])) == ["EVALSHA", "EVAL"]
    assert sent(lambda: watched.apply([ask(LIMITS[0], lease_id="c")])) == ["EVALSHA"]
    assert left(watched, LIMITS[0]) == 0, "each was counted once"


def test_listing_deleting_and_clearing_never_scan(
    watched: RedisBackend, sent: Callable[[Callable[[], object]], list[str]]
) -> None:
    watched.apply(CALLS)
    assert sent(lambda: watched.keys(BREAKER)) == ["TIME", "ZREVRANGEBYSCORE"]
    assert sent(lambda: watched.delete(BREAKER, [("a", "b")])) == ["DEL", "ZREM"]
    assert {"SCAN", "KEYS"}.isdisjoint(sent(watched.clear))


def in_use(backend: RedisBackend, policy: Policy) -> Iterator[Verdict]:
    """The answers to all that can be asked of a policy."""
    known = {BREAKER: [REPORT, ASK, REPORT], PLACE: [TAKE, TOUCH, TURN, TOUCH]}
    operations = known.get(policy, [HIT, HIT, PEEK, REFUND, HIT])
    operations += [RESERVE] * 3 if "max_wait" in policy.event else []
    for i, op in enumerate(operations):
        call = ask(policy, op=op, lease_id=str(i))
        event = [
            24 * 60 * SECOND if name == "max_wait" else value
            for name, value in zip(policy.event, call.event, strict=True)
        ]
        yield backend.apply([call._replace(event=tuple(event))])[0]


@every_policy
def test_every_key_ends_and_none_outlives_its_use_by_more_than_a_quarter(
    backend: RedisBackend, client: redis.Redis, policy: Policy
) -> None:
    longest = 0
    seconds, fraction = client.time()  # before the first key was written, however slow the machine is after that
    for verdict in in_use(backend, policy):
        longest = max(longest, verdict[EXPIRES], verdict[-1] if policy.leases else 0)
    at_most = 1.25 * (longest - int(seconds) * SECOND - int(fraction)) / 1000 + 3  # each is rounded
    keys = stored(client, backend)
    assert len(keys) == 1 + bool(policy.record) + (policy.name in ("token_bucket", "sliding_window", "concurrency"))
    for key in keys:
        assert 0 < client.pttl(key) <= at_most, key


@every_policy
def test_no_key_ends_before_what_it_holds(backend: RedisBackend, client: redis.Redis, policy: Policy) -> None:
    seen = 0
    for _ in in_use(backend, policy):
        for key in stored(client, backend):
            if client.type(key) == b"zset":
                ((_, score),) = client.execute_command("ZRANGE", key, -1, -1, "WITHSCORES")
                ends = int(score)
            else:
                record = client.get(key)
                assert isinstance(record, bytes)
                ends = int.from_bytes(record[1:9])
            lasts = client.pttl(key)
            seconds, fraction = client.time()
            assert ends <= int(seconds) * SECOND + int(fraction) + (lasts + 1) * 1000, key
            seen += 1
    assert seen > 2


def test_clear_leaves_nothing_behind_and_spares_other_prefixes(backend: RedisBackend, client: redis.Redis) -> None:
    other = RedisBackend(client=client, key_prefix=f"{backend._prefix}2")
    for each in (backend, other):
        for name in ("a", "{b}:c", "é" * 1000, "%"):
            each.apply([use(policy, (name, name)) for policy in POLICIES.values()])
    kept = stored(client, other)
    backend.clear()
    assert stored(client, backend) == set()
    assert stored(client, other) == kept
    other.clear()


GARBAGE = [b"", b"\x01", b"not a record", b"\x00" * 500, b"\xff" * 33]


@pytest.mark.parametrize("policy", [p for p in POLICIES.values() if p.record], ids=lambda policy: policy.name)
def test_a_record_of_another_version_or_garbage_is_replaced_never_misread(
    backend: RedisBackend, client: redis.Redis, policy: Policy
) -> None:
    call = use(policy)
    width = 1 + len(policy.record)
    backend.apply([call])
    record = backend._keys_of.record(policy, call.key)[0]
    good = client.get(record)
    assert isinstance(good, bytes)
    far, version, expires = 2**52, good[0], int.from_bytes(good[1:9])
    foreign = [struct.pack(f">B{width}q", each, far, *[far] * (width - 1)) for each in (0, version + 1, 255)]
    ended = struct.pack(f">B{width}q", version, 1, *[far] * (width - 1))
    backend.delete(policy, [call.key])
    fresh = backend.apply([call])[0]
    for value in [*GARBAGE, *foreign, ended, good + b"\x00", good[:-1]]:
        client.set(record, value)
        again = backend.apply([call])[0]
        assert again[:EXPIRES] == fresh[:EXPIRES], value
        replaced = client.get(record)
        assert isinstance(replaced, bytes)
        assert len(replaced) == len(good)
        assert int.from_bytes(replaced[1:9]) >= expires
        assert client.pttl(record) > 0


def test_a_key_of_another_type_is_an_error_of_the_backend(backend: RedisBackend, client: redis.Redis) -> None:
    call = ask(LIMITS[0])
    key = backend._keys_of.record(call.policy, call.key)[0]
    client.set(key, "a string", px=60_000)
    with pytest.raises(BackendError, match="WRONGTYPE"):
        backend.apply([call])
    client.delete(key)


@every_limit
def test_the_servers_clock_decides(backend: RedisBackend, client: redis.Redis, policy: Policy) -> None:
    before = client.time()
    verdict = backend.apply([ask(policy)])[0]
    after = client.time()
    assert verdict[ALLOWED]
    earliest, latest = (int(s) * SECOND + int(f) + 4 * 60 * SECOND for s, f in (before, after))
    spans = 5 if policy.name == "sliding_window_counter" else 3 if policy.name == "token_bucket" else 1
    assert earliest <= verdict[EXPIRES] - (spans - 1) * 240 * SECOND <= latest


def test_records_of_one_name_share_a_hash_tag_whatever_the_name(backend: RedisBackend) -> None:
    for name in ("a", "{", "}{", "a}b{c", "é" * 1000):
        keys = [
            key
            for policy in POLICIES.values()
            for q in ("", "}{")
            for key in backend._keys_of.record(policy, (name, q))
        ]
        tags = {key.partition("{")[2].partition("}")[0] for key in keys}
        assert tags == {escape(name)}
        assert all(key.count("{") == key.count("}") == 1 for key in keys)
        assert max(map(len, keys)) < 3 * MAX_KEY
