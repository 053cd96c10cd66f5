"""On three masters: the same decisions as everywhere, atomic for each name and for each common tag."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
from collections.abc import Iterator

import pytest
import redis
from hypothesis import given
from redis.crc import key_slot

from ratelimit_core._util.clock import SECOND
from ratelimit_core.backends import RedisBackend
from ratelimit_core.backends.redis.cluster import apply_per_slot
from ratelimit_core.backends.redis.keys import BUCKETS, ClusterKeys
from ratelimit_core.backends.redis.round_trips import Script
from ratelimit_core.errors import BackendError
from ratelimit_core.policies import (
    ALLOWED,
    ANSWER,
    BREAKER,
    CONCURRENCY,
    FIXED_WINDOW,
    LIMITS,
    POLICIES,
    TOKEN_BUCKET,
    Policy,
    Verdict,
)
from ratelimit_core.testing import ManualClock
from tests.conformance.participants import InRedis
from tests.conformance.profiles import examples
from tests.conformance.reference import Reference
from tests.conformance.scenarios import Config, Step, plain_config, scenarios
from tests.conformance.test_agreement import NAMES, calls_together, play
from tests.conformance.test_each import Round, play_each, rounds_of_batches
from tests.conformance.test_stores import PEEK, ask, left, use
from tests.servers import PATIENT, eventually, free_port

from . import topology
from .topology import Cluster, Server, names, refused

COARSE = 60 * SECOND
SLACK = 0.7


@pytest.fixture
def backend(cluster: Cluster, prefix: str, clock: ManualClock) -> Iterator[RedisBackend]:
    backend = RedisBackend(cluster.url, key_prefix=prefix, clock=clock, **PATIENT)
    yield backend
    backend.clear()
    backend.close()


@pytest.fixture
def mortal() -> Iterator[Cluster]:
    """One that may be broken."""
    with topology.cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[redis.RedisCluster]:
    with redis.RedisCluster("127.0.0.1", cluster.masters[0].port) as client:
        yield client


def test_a_name_chooses_a_bucket_and_a_part_of_it_in_braces_alone_does() -> None:
    bucket = ClusterKeys.bucket
    assert bucket("payments") == bucket("{payments}") == bucket("eu:{payments}") == bucket("{payments}{x}:é")
    assert bucket("{}x") != bucket("{}y"), "an empty one is none"
    assert bucket("{x") != bucket("{y")
    assert {bucket(str(i)) for i in range(1000)} == set(range(BUCKETS))
    assert len({key_slot(str(i).encode()) for i in range(BUCKETS)}) == BUCKETS


def test_the_names_lie_on_three_masters(cluster: Cluster) -> None:
    assert len({cluster.home(name).port for name in names(cluster)}) == 3


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_cluster_decides_what_is_decided_everywhere(client: redis.RedisCluster, prefix: str, policy: Policy) -> None:
    rounds = itertools.count()

    @examples(15)
    @given(scenarios(policy, COARSE))
    def agree(scenario: tuple[Config, list[Step]]) -> None:
        clock = ManualClock()
        there = InRedis("the cluster", client, f"{prefix}-{next(rounds)}", clock)
        play(policy, *scenario, clock, there)
        there.backend.clear()

    agree()


def test_calls_of_several_buckets_are_decided_all_or_none_and_listed(client: redis.RedisCluster, prefix: str) -> None:
    rounds = itertools.count()
    assert len(set(map(ClusterKeys.bucket, NAMES))) == len(NAMES)

    @examples(30)
    @given(calls_together(COARSE))
    def agree(asked_in_turn: list[dict[tuple[str, str], Step]]) -> None:
        clock = ManualClock()
        reference = Reference(clock)
        there = InRedis("the cluster", client, f"{prefix}-{next(rounds)}", clock)
        touched = {place for asked in asked_in_turn for place in asked}
        for asked in asked_in_turn:
            clock.now += max(step.elapsed for step in asked.values())
            calls = [
                step.call(POLICIES[name], (key, name), plain_config(POLICIES[name], COARSE), reference)
                for (name, key), step in asked.items()
            ]
            assert there.apply(calls) == reference.apply(calls), f"{calls} at {clock.now}"
            for name, key in touched:
                policy = POLICIES[name]
                assert there.state(policy, (key, name)) == reference.state(policy, (key, name))
        for name in {name for name, _ in touched}:
            assert there.keys(POLICIES[name]) == reference.keys(POLICIES[name])
        there.backend.clear()

    agree()


def test_batches_come_to_the_same_as_one_by_one_in_each_slot(client: redis.RedisCluster, prefix: str) -> None:
    numbers = itertools.count()

    @examples(40)
    @given(rounds_of_batches(COARSE))
    def agree(rounds: list[Round]) -> None:
        clock = ManualClock()
        there = InRedis("the cluster", client, f"{prefix}-{next(numbers)}", clock)
        play_each(rounds, COARSE, clock, there, ClusterKeys.bucket)
        there.backend.clear()

    agree()


def test_batches_in_one_slot_are_one_command_and_later_slots_are_not_asked_without_need(
    backend: RedisBackend, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, scripts = backend._session.evaluate, list[Script]()

    def noted(script: Script) -> object:
        scripts.append(script)
        return evaluate(script)

    monkeypatch.setattr(backend._session, "evaluate", noted)
    first, second, third = names(cluster)
    batches = [[ask(FIXED_WINDOW, (name, ""))] for name in (first, second, first, first, third, second, first)]
    assert [len(batch) for batch in backend.apply_each(batches, 4)] == [1, 1, 1, 1, 0, 0, 1]
    assert len(scripts) == 2
    spread = [[ask(TOKEN_BUCKET, (name, "")) for name in (first, second)], [ask(TOKEN_BUCKET, (first, ""))]]
    assert [len(batch) for batch in asyncio.run(backend.aapply_each(spread))] == [2, 1]
    assert [left(backend, TOKEN_BUCKET, (name, "")) for name in (first, second, third)] == [1, 2, 3]


def test_the_bucket_of_the_last_call_writes_last_and_only_the_first_is_not_asked_before() -> None:
    a, b, c = (ask(FIXED_WINDOW, (name, "")) for name in "abc")
    breaker = use(BREAKER, ("a", ""))
    turns = apply_per_slot([a, b, breaker, c])
    asked = [next(turns)]
    answers: list[list[Verdict]] = [[(1, 1), (1, 2)], [(1, 3)], [(1, 4)], [(1, 5), (1, 6)]]
    asked += [turns.send(verdicts) for verdicts in answers]
    with pytest.raises(StopIteration) as end:
        turns.send([(1, 7)])
    assert asked == [([a, breaker], True), ([c], True), ([b], False), ([a, breaker], False), ([c], False)]
    assert end.value.value == [(1, 5), (1, 4), (1, 6), (1, 7)]


def test_a_denial_anywhere_leaves_nothing_anywhere(backend: RedisBackend, cluster: Cluster) -> None:
    first, second, third = names(cluster)
    for i in range(3):
        backend.apply([ask(CONCURRENCY, (second, ""), lease_id=str(i))])
    before = cluster.stored()
    calls = [ask(policy, (name, ""), lease_id="t") for name in (first, second, third) for policy in LIMITS]
    verdicts = backend.apply(calls)
    assert [call for call, verdict in zip(calls, verdicts, strict=True) if not verdict[ALLOWED]] == [
        ask(CONCURRENCY, (second, ""), lease_id="t")
    ]
    assert cluster.stored() == before


def test_a_place_that_somebody_takes_in_between_leaves_what_was_written_before(
    backend: RedisBackend, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = ((name, "") for name in names(cluster))
    evaluate, asked = backend._session.evaluate, itertools.count(1)

    def meanwhile(script: Script) -> object:
        if next(asked) == 4:  # they have been asked, and the first has written
            monkeypatch.undo()
            for i in range(3):
                backend.apply([ask(FIXED_WINDOW, second, lease_id=str(i))])
        return evaluate(script)

    monkeypatch.setattr(backend._session, "evaluate", meanwhile)
    verdicts = backend.apply([ask(FIXED_WINDOW, key) for key in (first, second, third)])
    assert [verdict[ALLOWED] for verdict in verdicts] == [1, 0, 1]
    assert [left(backend, FIXED_WINDOW, key) for key in (first, second, third)] == [2, 0, 3]


def test_what_has_a_common_tag_is_one_command(
    backend: RedisBackend, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, scripts = backend._session.evaluate, list[Script]()

    def noted(script: Script) -> object:
        scripts.append(script)
        return evaluate(script)

    monkeypatch.setattr(backend._session, "evaluate", noted)
    calls = [ask(FIXED_WINDOW, (name, "")) for name in ("supplier", "{supplier}:eu", "tasks of {supplier}")]
    assert [verdict[ALLOWED] for verdict in backend.apply(calls)] == [1, 1, 1]
    assert len(scripts) == 1
    assert set(backend.keys(FIXED_WINDOW)) == {call.key for call in calls}


def test_listing_deleting_and_clearing(backend: RedisBackend, cluster: Cluster, prefix: str) -> None:
    keys = [(name, qualifier) for name in (*names(cluster), "{}", ":", "é" * 1000) for qualifier in ("", "a:b", "é")]
    for policy in POLICIES.values():
        backend.apply([use(policy, key) for key in keys])
    listed = {policy: set(backend.keys(policy)) for policy in POLICIES.values()}
    assert all(len(found) == len(keys) and set(keys[:15]) <= found for found in listed.values())
    backend.delete(FIXED_WINDOW, keys[:7])
    assert set(backend.keys(FIXED_WINDOW)) == listed[FIXED_WINDOW] - set(keys[:7])
    assert [left(backend, FIXED_WINDOW, key) for key in keys[6:8]] == [3, 2]
    assert backend.keys(BREAKER)
    other = RedisBackend(cluster.url, key_prefix=f"{prefix}2", **PATIENT)
    other.apply([use(FIXED_WINDOW, key) for key in keys])
    other.append(("name", "history"), "entry", keep=3, seconds=60)
    of_other = {key for key in cluster.stored() if key.startswith(f"{prefix}2:".encode())}
    for name in names(cluster):
        backend.append((name, "history"), "entry", keep=3, seconds=60)
    backend.clear()
    assert {key for key in cluster.stored() if key.startswith(prefix.encode())} == of_other
    other.clear()
    assert not [key for key in cluster.stored() if key.startswith(prefix.encode())]
    other.close()


def test_every_key_ends(cluster: Cluster, prefix: str) -> None:
    backend = RedisBackend(cluster.url, key_prefix=prefix, **PATIENT)
    for name in names(cluster):
        backend.apply([use(policy, (name, "")) for policy in POLICIES.values()])
        backend.append((name, "history"), "entry", keep=3, seconds=60)
    ends = [
        master.client.pttl(key)
        for master in cluster.masters
        for key in master.client.scan_iter(f"{prefix}:*", count=10_000)
    ]
    assert len(ends) == 3 * (8 + 6 + 2 + 2), "indexes, records, leases, and a journal with its index"
    assert min(ends) > 0
    backend.clear()
    backend.close()


def test_journals(backend: RedisBackend, cluster: Cluster) -> None:
    for name in names(cluster):
        for entry in "abc":
            backend.append((name, "history"), entry, keep=2, seconds=60)
    assert [backend.entries((name, "history")) for name in names(cluster)] == [["c", "b"]] * 3
    assert backend.entries(("other", "history")) == []


def test_event_loops(backend: RedisBackend, cluster: Cluster) -> None:
    keys = [(name, "") for name in names(cluster)]

    async def turns() -> None:
        assert await backend.aapply([]) == []
        for i in range(4):
            calls = [ask(FIXED_WINDOW, key) for key in keys]
            verdicts = await asyncio.gather(*[backend.aapply([call]) for call in calls])
            assert [verdict[ALLOWED] for [verdict] in verdicts] == [i < 3] * 3
        assert [verdict[ALLOWED] for verdict in await backend.aapply([use(BREAKER, keys[0]), calls[1]])] == [1, 0]

    for _ in range(3):
        asyncio.run(turns())
        gc.collect()
        assert backend.keys(BREAKER) == []
        backend.clear()


def test_a_client_of_ones_own(client: redis.RedisCluster, cluster: Cluster, prefix: str) -> None:
    backend = RedisBackend(client=client, key_prefix=prefix)
    calls = [ask(FIXED_WINDOW, (name, "")) for name in names(cluster)]
    assert [verdict[ALLOWED] for verdict in backend.apply(calls)] == [1, 1, 1]
    assert [verdict[ALLOWED] for verdict in asyncio.run(backend.aapply(calls))] == [1, 1, 1]
    assert len(backend.keys(FIXED_WINDOW)) == 3
    backend.clear()


def test_a_forked_child_has_connections_of_its_own(backend: RedisBackend, cluster: Cluster) -> None:
    calls = [ask(FIXED_WINDOW, (name, "")) for name in names(cluster)]
    backend.apply(calls)
    child = os.fork()
    if not child:
        code = 1
        try:
            verdicts = [*backend.apply(calls), *asyncio.run(backend.aapply(calls))]
            code = 0 if [verdict[ANSWER] for verdict in verdicts] == [1, 1, 1, 0, 0, 0] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [verdict[ALLOWED] for verdict in backend.apply(calls)] == [0, 0, 0]


STEPS = ["before the keys go", "when the keys are gone", "when all is done"]


def move(cluster: Cluster, name: str, source: Server, target: Server) -> Iterator[str]:
    """Move the slot of a name, step by step."""
    slot = key_slot(str(ClusterKeys.bucket(name)).encode())
    ids = {each: each.client.execute_command("CLUSTER", "MYID") for each in (source, target)}
    target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    yield STEPS[0]
    keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    yield STEPS[1]
    for each in (target, source, *cluster.masters):
        each.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    yield STEPS[2]


def test_a_slot_that_moves_is_followed(cluster: Cluster, prefix: str) -> None:
    name = names(cluster)[0]
    source, target = cluster.home(name), cluster.masters[1]
    backend, lister = (RedisBackend(cluster.url, key_prefix=prefix, **PATIENT) for _ in range(2))
    loop = asyncio.new_event_loop()
    calls = [use(TOKEN_BUCKET, (name, "sync")), use(FIXED_WINDOW, (name, "sync"))]
    acalls = [use(TOKEN_BUCKET, (name, "async")), use(FIXED_WINDOW, (name, "async"))]
    backend.apply(calls)
    loop.run_until_complete(backend.aapply(acalls))
    lister.append((name, "history"), "before", keep=9, seconds=60)
    for _ in range(2):
        for step in move(cluster, name, source, target):
            look = [ask(FIXED_WINDOW, (name, "sync"), PEEK), ask(FIXED_WINDOW, (name, "async"), PEEK)]
            assert [verdict[ANSWER] for verdict in backend.apply(look)] == [2, 2], step
            assert [verdict[ANSWER] for verdict in loop.run_until_complete(backend.aapply(look))] == [2, 2], step
            assert len(lister.keys(TOKEN_BUCKET)) == 2, step
            lister.append((name, "mode"), step, keep=9, seconds=60)
        assert set(lister.keys(FIXED_WINDOW)) == {(name, "sync"), (name, "async")}
        lister.append((name, "history"), "after", keep=9, seconds=60)
        source, target = target, source
    assert backend.entries((name, "history")) == ["after", "after", "before"]
    assert backend.entries((name, "mode")) == [*STEPS[::-1], *STEPS[::-1]]
    backend.clear()
    loop.close()
    for each in (backend, lister):
        each.close()


@pytest.mark.timed
def test_a_master_that_is_killed_is_an_error_and_soon(mortal: Cluster, prefix: str) -> None:
    backend = RedisBackend(mortal.url, key_prefix=prefix, enable_circuit_breaker=False)
    loop = asyncio.new_event_loop()
    first, second, third = names(mortal)
    everywhere = [ask(FIXED_WINDOW, (name, "")) for name in (first, second, third)]
    backend.apply(everywhere)
    loop.run_until_complete(backend.aapply(everywhere))
    mortal.masters[1].kill()
    killed = [ask(FIXED_WINDOW, (second, ""))]
    for _ in range(4):
        assert refused(lambda: backend.apply(killed)) < 0.6 + SLACK
        assert refused(lambda: loop.run_until_complete(backend.aapply(killed))) < 0.75 + SLACK
        assert refused(lambda: backend.keys(FIXED_WINDOW)) < 0.6 + SLACK
        assert refused(backend.clear) < 0.6 + SLACK
        assert refused(lambda: backend.append((second, "history"), "entry", keep=1, seconds=1)) < 0.6 + SLACK
    loop.close()
    backend.close()
    gc.collect()


@pytest.mark.timed
def test_a_master_that_hangs_is_an_error_and_soon(mortal: Cluster, prefix: str) -> None:
    backend = RedisBackend(mortal.url, key_prefix=prefix, enable_circuit_breaker=False)
    loop = asyncio.new_event_loop()
    first, second, third = names(mortal)
    everywhere = [ask(FIXED_WINDOW, (name, "")) for name in (first, second, third)]
    backend.apply(everywhere)
    loop.run_until_complete(backend.aapply(everywhere))
    mortal.masters[1].hang()
    hung = [ask(FIXED_WINDOW, (second, ""))]
    for _ in range(4):
        assert refused(lambda: backend.apply(hung)) < 0.75 + SLACK
        assert refused(lambda: loop.run_until_complete(backend.aapply(hung))) < 0.75 + SLACK
        assert refused(lambda: backend.keys(FIXED_WINDOW)) < 0.75 + SLACK
    mortal.masters[1].end_hang()

    def well() -> bool:
        try:
            return len(backend.apply(everywhere)) == len(loop.run_until_complete(backend.aapply(everywhere)))
        except BackendError:
            return False

    eventually(well)
    assert len(backend.keys(FIXED_WINDOW)) == 3
    loop.close()
    backend.close()
    gc.collect()


def test_nothing_is_connected_before_the_first_call_and_one_host_is_enough(cluster: Cluster, prefix: str) -> None:
    dead = f"127.0.0.1:{free_port()}"
    url = f"redis+cluster://{dead},{cluster.masters[0].address}"
    before = [master.connections() for master in cluster.masters]
    backend = RedisBackend(url, key_prefix=prefix)
    assert [master.connections() for master in cluster.masters] == before
    for name in names(cluster):
        assert backend.apply([ask(FIXED_WINDOW, (name, ""))])[0][ALLOWED]
    backend.clear()
    backend.close()
    backend.apply([ask(FIXED_WINDOW)])
    backend.clear()
    backend.close()


@pytest.mark.timed
def test_many_threads_find_out_together_that_a_cluster_does_not_answer(server: Server) -> None:
    server.hang()
    backend = RedisBackend(f"redis+cluster://{server.address}", enable_circuit_breaker=False)
    everybody = threading.Barrier(20)
    waits: list[float] = []

    def call() -> None:
        everybody.wait()
        waits.append(refused(lambda: backend.apply([ask(FIXED_WINDOW)])))

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(waits) == 20
    assert max(waits) < 0.25 + SLACK
    server.end_hang()
    backend.close()


def test_a_server_that_is_no_cluster_is_an_error(server: Server) -> None:
    backend = RedisBackend(f"redis+cluster://{server.address}")
    with pytest.raises(BackendError, match="Cluster"):
        backend.apply([ask(FIXED_WINDOW)])
    backend.close()
