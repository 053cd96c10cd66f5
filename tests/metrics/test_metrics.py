from __future__ import annotations

import json
import logging
import os
import re
import uuid
from pathlib import Path

import promql_parser
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.parser import text_string_to_metric_families

from ratelimit_core import CircuitBreaker, CircuitBreakerError, Limiter, RateLimited, configure
from ratelimit_core.metrics import opentelemetry, prometheus
from ratelimit_core.metrics.counts import counts
from ratelimit_core.metrics.labels import label_of
from tests.breaker.fleet import fail
from tests.servers import ROOT

MONITORING = ROOT / "monitoring"


@pytest.fixture(autouse=True)
def on_valkey(valkey_url: str, fresh_settings: None) -> None:
    configure(backend=valkey_url, key_prefix=f"test-{uuid.uuid4().hex}")
    prometheus.install()
    prometheus.flush()


def exported() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(prometheus.exposition().decode())
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
            for outcome in ("successes", "failures", "refusals")
        ] == [100, 2, 10]
    assert value("resilience_breaker_transitions_total", breaker=name, to="open") == 1
    assert value("resilience_breaker_state", breaker=name, state="open") == 1
    assert value("resilience_breaker_state", breaker=name, state="closed") == 0
    assert value("resilience_store_up") == 1
    assert value("resilience_store_seconds_count") > 0


def test_a_child_counts_only_its_own() -> None:
    breaker = CircuitBreaker(name := uuid.uuid4().hex)
    breaker.call(len, "")
    prometheus.flush()  # what was told before the fork was the parent's
    read, write = os.pipe()
    child = os.fork()
    if not child:
        breaker.call(len, "")
        breaker.call(len, "")
        os.write(write, str(dict(counts.take())[name, "successes"]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"2"
    os.close(read)
    os.close(write)
    assert value("resilience_breaker_calls_total", breaker=name, outcome="successes") == 1


def test_no_client_becomes_a_label() -> None:
    CircuitBreaker("tenants:{tenant}", failure_threshold=1)
    fail(CircuitBreaker("tenants:secret", failure_threshold=1))
    Limiter("1/h", key="secret", algorithm="fixed_window").hit()
    text = prometheus.exposition().decode()
    assert "secret" not in text
    assert value("resilience_breaker_state", breaker="tenants:{tenant}", state="open") == 1
    assert value("resilience_limits_full", limit="1/h", algorithm="fixed_window") == 1
    assert label_of("unknown:secret") == "unknown:*"


def test_the_store_away_is_told() -> None:
    configure(backend="redis://127.0.0.1:1/0")
    CircuitBreaker(uuid.uuid4().hex).call(len, "")
    assert value("resilience_store_up") == 0
    assert value("resilience_store_errors_total") >= 1
    assert value("resilience_store_outages_total") >= 1


def test_opentelemetry_observes_the_same() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    opentelemetry.install(provider.get_meter("test"))
    breaker = CircuitBreaker(name := uuid.uuid4().hex, failure_threshold=1)
    breaker.call(len, "")
    fail(breaker)
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        (metric.name, *sorted(map(str, (point.attributes or {}).values()))): getattr(point, "value", None)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert points["resilience.breaker.calls", *sorted((name, "successes"))] == 1
    assert points["resilience.breaker.calls", *sorted((name, "failures"))] == 1
    assert points["resilience.breaker.transitions", *sorted((name, "open"))] == 1
    assert points["resilience.breaker_state", *sorted((name, "open"))] == 1
    provider.shutdown()


def expressions() -> list[str]:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    rules = re.findall(r"^ +expr: (.+)$", (MONITORING / "alerts.yml").read_text(), re.MULTILINE)
    assert len(rules) == Path(MONITORING / "alerts.yml").read_text().count("- alert:")
    return [*rules, *(target["expr"] for panel in panels for target in panel["targets"])]


@pytest.mark.parametrize("expression", expressions())
def test_rules_and_panels_ask_for_what_is_there(expression: str) -> None:
    promql_parser.parse(expression)
    named = set(re.findall(r"resilience_\w+", expression))
    families = [*prometheus.own.collect(), *prometheus.FleetCollector().describe()]
    kinds = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    assert named
    assert named <= {family.name + end for family in families for end in kinds[family.type]}


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
        with pytest.raises(RateLimited), limiter:
            pass
    lines = [record for record in caplog.records if record.name.startswith("ratelimit_core")]
    assert [line.getMessage().split(" after")[0] for line in lines] == [f"breaker {breaker.name!r} opened"]
    assert getattr(lines[0], "event").new == "open"  # noqa: B009
