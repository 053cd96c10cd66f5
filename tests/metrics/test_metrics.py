from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import uuid
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter, RateLimitExceeded, configure
from ratelimit_core._util.interrupts import interruptions
from ratelimit_core._util.templates import is_template
from ratelimit_core.backends import MemoryBackend
from ratelimit_core.events import StoreAvailabilityChanged, emit
from ratelimit_core.guard import Guard
from ratelimit_core.metrics import exporter, labels, opentelemetry, prometheus
from ratelimit_core.metrics.counters import Counts
from ratelimit_core.metrics.exporter import HISTOGRAMS
from ratelimit_core.metrics.fleet import Reading, readings
from ratelimit_core.metrics.labels import label_of
from ratelimit_core.store import fallback
from tests.circuit_breaker.fleet import fail
from tests.servers import ROOT, missing

MONITORING = ROOT / "monitoring"


@pytest.fixture(autouse=True)
def on_valkey(valkey_url: str, fresh_settings: None) -> None:
    configure(backend=valkey_url, key_prefix=f"test-{uuid.uuid4().hex}")
    prometheus.install()
    prometheus.instruments.flush()


def exported() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(prometheus.exposition()[0].decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(name: str, **labels: str) -> float:
    return exported().get((name, frozenset(labels.items())), 0.0)


def test_what_a_breaker_did_is_told_once() -> None:
    breaker = CircuitBreaker(name := uuid.uuid4().hex, failure_threshold=2)
    for _ in range(100):
        breaker.call(len, "")
    fail(breaker, 2)
    for _ in range(10):
        with pytest.raises(CircuitBreakerError):
            breaker.call(len, "")
    for _ in range(2):  # a second scrape counts nothing anew
        found = exported()
        assert [
            found["resilience_breaker_calls_total", frozenset({("breaker", name), ("outcome", outcome)})]
            for outcome in ("success", "failure", "not_permitted")
        ] == [100, 2, 10]
    assert (
        len(
            [
                labels
                for metric, labels in found
                if metric == "resilience_breaker_calls_total" and ("breaker", name) in labels
            ]
        )
        == 3
    )
    assert value("resilience_breaker_transitions_total", breaker=name, to="open") == 1
    assert value("resilience_breaker_state", breaker=name, state="open") == 1
    assert value("resilience_breaker_state", breaker=name, state="closed") == 0
    assert value("resilience_store_up") == 1
    assert value("resilience_store_seconds_count") > 0


def test_a_child_counts_only_its_own() -> None:
    breaker = CircuitBreaker(name := uuid.uuid4().hex)
    breaker.call(len, "")
    prometheus.instruments.flush()  # what was told before the fork was the parent's
    read, write = os.pipe()
    child = os.fork()
    if not child:
        breaker.call(len, "")
        breaker.call(len, "")
        os.write(write, str(dict(prometheus.instruments.counts.take())[name, "successes"]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"2"
    os.close(read)
    os.close(write)
    assert value("resilience_breaker_calls_total", breaker=name, outcome="success") == 1
    breaker.call(len, "")
    assert value("resilience_breaker_calls_total", breaker=name, outcome="success") == 2


def test_no_client_becomes_a_label() -> None:
    secret = uuid.uuid4().hex  # no other test has used it
    CircuitBreaker("tenants:{tenant}", failure_threshold=1)
    fail(CircuitBreaker(f"tenants:{secret}", failure_threshold=1))
    Limiter("1/h", key=secret, algorithm="fixed_window").hit()
    text = prometheus.exposition()[0].decode()
    assert secret not in text
    assert value("resilience_breaker_state", breaker="tenants:{tenant}", state="open") == 1
    assert value("resilience_limits_full", limit="1/h", algorithm="fixed_window") == 1
    assert label_of("unknown:secret") == "unknown:*"


def test_very_many_breakers_are_told_by_the_templates_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def look(name: str) -> bool:
        looks.append(name)
        return is_template(name)

    family = CircuitBreaker("tenants:{tenant}", failure_threshold=1)
    for tenant in range(20):
        family.bind(tenant=tenant).call(len, "")
    monkeypatch.setattr(labels, "is_template", look)
    assert [reading.value for reading in readings() if reading.labels == ("tenants:{tenant}", "closed")] == [20]
    assert looks == ["tenants:{tenant}"]


def test_the_store_away_is_told() -> None:
    configure(backend="redis://127.0.0.1:1/0")
    CircuitBreaker(uuid.uuid4().hex).call(len, "")
    assert value("resilience_store_up") == 0
    assert value("resilience_store_errors_total") >= 1
    assert value("resilience_store_outages_total") >= 1


class TimeLimit(Exception):
    """What a signal's handler may raise anywhere."""


interruptions.add(TimeLimit)


@pytest.mark.parametrize(("raised", "reaches"), [(ZeroDivisionError, False), (TimeLimit, True)])
def test_a_call_fails_for_no_measuring_but_what_ends_it_ends_it(
    raised: type[Exception], reaches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(seconds: float, failed: bool) -> None:
        raise raised

    monkeypatch.setattr(fallback, "observer", observe)
    breaker = CircuitBreaker(uuid.uuid4().hex)
    if reaches:
        with pytest.raises(TimeLimit):
            breaker.call(len, "")
    else:
        assert breaker.call(len, "") == 0
    assert (fallback.observer is observe) is reaches


def test_opentelemetry_observes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_exporters", [*exporter._exporters])
    looks = 0

    def look() -> list[Reading]:
        nonlocal looks
        looks += 1
        return readings()

    monkeypatch.setattr(opentelemetry, "readings", look)
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    opentelemetry.install(provider.get_meter("test"))
    breaker = CircuitBreaker(name := uuid.uuid4().hex, failure_threshold=1)
    breaker.call(len, "")
    fail(breaker)
    limiter = Limiter("1/h", key=name, algorithm="fixed_window")
    taken = [limiter.hit().allowed for _ in range(3)]
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        (metric.name, *sorted(map(str, (point.attributes or {}).values()))): point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }

    def observed(metric: str, *attributes: str) -> Any:
        return getattr(points[metric, *sorted(attributes)], "value", None)

    assert observed("resilience.breaker.calls", name, "success") == 1
    assert observed("resilience.breaker.calls", name, "failure") == 1
    assert observed("resilience.breaker.transitions", name, "open") == 1
    assert observed("resilience.breaker.state", name, "open") == 1
    assert observed("resilience.store.up") == 1
    assert observed("resilience.limit.denials", "1/h", "fixed_window") == taken.count(False) == 2
    latency = points["resilience.store.seconds",]
    assert isinstance(latency, HistogramDataPoint)
    assert (latency.count, list(latency.explicit_bounds)) == (4, list(HISTOGRAMS["resilience_store_seconds"][2]))
    assert looks == 1, "all gauges of a collection are of one look"
    assert value("resilience_breaker_calls_total", breaker=name, outcome="success") == 1, "Prometheus is told too"
    provider.shutdown()


def test_a_denial_is_counted_once_however_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def denials() -> float:
        return value("resilience_limit_denials_total", limit="2/h", algorithm="sliding_window")

    limiter = Limiter("2/h;100/h", key=uuid.uuid4().hex)
    before = denials()
    assert [limiter.hit().allowed for _ in range(4)] == [True, True, False, False]
    assert denials() - before == 2, "asked, and known"
    with pytest.raises(RateLimitExceeded), limiter:
        pass
    with pytest.raises(RateLimitExceeded):
        Guard(None, limiter).acquire()
    assert not asyncio.run(limiter.ahit())
    assert not limiter.peek()
    assert denials() - before == 5, "a look is no hit"
    in_memory = Limiter("2/h", key="name", backend=MemoryBackend())
    assert [bool(in_memory.hit()) for _ in range(3)] == [True, True, False]
    assert denials() - before == 6


def test_very_many_breakers_are_told_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    name = uuid.uuid4().hex
    CircuitBreaker(f"{name}:{{n}}")
    backend = MemoryBackend()
    breakers = [CircuitBreaker(f"{name}:{n}", backend=backend) for n in range(1200)]
    counts = Counts()
    counts.take()
    for breaker in breakers:
        breaker.call(len, "")
    taken = [sum(counts.take_some().values()) for _ in range(10)]
    assert sum(taken) == 1200
    assert max(taken) <= 500
    assert not counts.take()


DASHBOARD = MONITORING / "grafana-dashboard.json"


def expressions() -> list[str]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    return [*rules, *(target["expr"] for panel in _dashboard()["panels"] for target in panel["targets"])]


def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


@pytest.mark.parametrize("expression", expressions())
def test_rules_and_panels_ask_for_what_is_there(expression: str) -> None:
    promql_parser.parse(expression)
    named = set(re.findall(r"resilience_\w+", expression))
    families = [*prometheus.own.collect(), *prometheus.FleetCollector().describe()]
    kinds = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    assert named
    assert named <= {family.name + end for family in families for end in kinds[family.type]}


def test_grafana_knows_all_that_the_dashboard_says() -> None:
    """Its own model reads the file and, written again, has lost nothing."""

    def lost(given: Any, kept: Any, at: str = "") -> list[str]:
        if isinstance(given, dict):
            return [each for key, value in given.items() for each in lost(value, kept.get(key), f"{at}/{key}")]
        if isinstance(given, list) and len(given) == len(kept):
            return [each for pair in zip(given, kept, strict=True) for each in lost(*pair, at)]
        return [] if given == kept else [f"{at}: {given!r} became {kept!r}"]

    dashboard = Dashboard.from_json(_dashboard())
    assert lost(_dashboard(), json.loads(JSONEncoder().encode(dashboard))) == []
    assert dashboard.panels is not None
    assert len(dashboard.panels) >= 12


def promtool(*arguments: str, given: bytes = b"") -> str:
    found = shutil.which("promtool") or missing("no promtool, which Debian has in its package prometheus")
    done = subprocess.run([found, *arguments], cwd=MONITORING, input=given, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_prometheus_alerts_when_it_should() -> None:
    assert "SUCCESS: 4 rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_prometheus_has_nothing_against_the_metrics() -> None:
    fail(CircuitBreaker(uuid.uuid4().hex, failure_threshold=1))
    Limiter("1/h", key=uuid.uuid4().hex).hit()
    text, content_type = prometheus.exposition()
    assert content_type.startswith("text/plain; version=")
    assert promtool("check", "metrics", given=text) == ""


def test_logs_tell_transitions_and_nothing_that_happens_a_thousand_times(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ratelimit_core")
    breaker = CircuitBreaker(uuid.uuid4().hex, failure_threshold=1)
    limiter = Limiter("1/h", key=uuid.uuid4().hex)
    limiter.hit()
    for _ in range(10_000):
        breaker.call(len, "")
    fail(breaker)
    for _ in range(10_000):
        with pytest.raises(CircuitBreakerError):
            breaker.call(len, "")
        with pytest.raises(RateLimitExceeded), limiter:
            pass
    lines = [record for record in caplog.records if record.name.startswith("ratelimit_core")]
    assert [line.getMessage().split(" after")[0] for line in lines] == [f"breaker {breaker.name!r} opened"]


def test_a_log_line_has_its_fields_for_who_writes_json(caplog: pytest.LogCaptureFixture) -> None:
    fail(CircuitBreaker("payments", failure_threshold=1, recovery_timeout=30))
    CircuitBreaker("payments").force_open("anna", "a drill", ttl=60)
    emit(StoreAvailabilityChanged(available=False, reason="it hangs"))
    lines = [json.loads(JsonFormatter(reserved_attrs=RESERVED_ATTRS).format(record)) for record in caplog.records]
    for line in lines:
        assert line.pop("message")
    assert lines == [
        {
            "event": "state_changed",
            "breaker": "payments",
            "old": "closed",
            "new": "open",
            "failure_count": 1,
            "retry_after": 30.0,
            "local": False,
            "shadow": False,
        },
        {
            "event": "mode_changed",
            "breaker": "payments",
            "mode": "forced_open",
            "author": "anna",
            "reason": "a drill",
            "ttl": 60.0,
        },
        {"event": "store_availability_changed", "available": False, "reason": "it hangs"},
    ]
