"""The app that the workers of these tests run: ``celery -A tests.celery.fleet worker``.

What the tasks do is said by the tests through Redis: an upstream that is down is a key that exists.
"""

from __future__ import annotations

import os
import time
from typing import Any

import redis
import sentry_sdk
from celery import Celery
from celery.signals import celeryd_init, task_prerun, task_received, worker_process_init
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from ratelimit_core import Backoff, CircuitBreakerError, testing
from resilient_tasks import breaker_task, metrics, protection, rate_limited_task, signals
from resilient_tasks.worker import gate

URL = os.environ["FLEET_URL"]  # a Redis of the test's own, without a database number
app = Celery("fleet", backend=f"{URL}/1")
app.conf.update(
    resilience_backend=os.environ.get("FLEET_STATE", f"{URL}/2"),
    broker_connection_retry_on_startup=True,
    worker_send_task_events=True,
    task_send_sent_event=True,
    result_extended=True,
    worker_prefetch_multiplier=int(os.environ.get("FLEET_PREFETCH", "4")),
    task_routes={"tests.celery.fleet.settle*": {"queue": "settling"}},
)

if os.environ.get("FLEET_BEAT"):
    app.conf.beat_schedule = {
        "tick": {"task": "tests.celery.fleet.tick", "schedule": 0.2},
        "expires": {"task": "tests.celery.fleet.charge_once", "schedule": 0.2, "args": (1,), "options": {"expires": 1}},
    }
if port := os.environ.get("FLEET_METRICS"):
    metrics.install(int(port))
if telemetry := os.environ.get("FLEET_TELEMETRY"):

    @worker_process_init.connect(weak=False)
    def export(**_: Any) -> None:
        """Write metrics, twice a second, to a file of this child's own."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

        exporter = ConsoleMetricExporter(
            open(f"{telemetry}/{os.getpid()}", "w"),  # noqa: SIM115
            formatter=lambda data: f"{data.to_json(indent=None)}\n",
        )
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=500)
        metrics.install_opentelemetry(MeterProvider([reader]).get_meter("fleet"))


if "FLEET_SLOW" in os.environ:
    task_prerun.connect(lambda **_: time.sleep(float(os.environ["FLEET_SLOW"])), weak=False)
if lease := os.environ.get("FLEET_LEASE"):
    protection._LONGEST_RUN, gate.RENEW_EVERY = float(lease), 0.5

VISIBILITY = {"visibility_timeout": int(seconds)} if (seconds := os.environ.get("FLEET_VISIBILITY")) else {}


def broker_settings() -> dict[str, Any]:
    """What of the configuration depends on the broker."""
    broker = os.environ.get("FLEET_BROKER", f"{URL}/0")
    quorum = os.environ.get("FLEET_QUEUES") == "quorum"  # which RabbitMQ delays itself, by exchanges that can do so
    return {
        "broker_url": broker,
        "task_default_queue_type": "quorum" if quorum else "classic",
        "task_default_exchange_type": "topic" if quorum else "direct",
        "task_create_missing_queue_type": "quorum" if quorum else "classic",
        "task_create_missing_queue_exchange_type": "topic" if quorum else None,
        "broker_transport_options": dict(VISIBILITY) if broker.startswith("redis") else {"confirm_publish": True},
    }


app.conf.update(broker_settings())
world = redis.Redis.from_url(f"{URL}/3", decode_responses=True)


@worker_process_init.connect
def cut_off(**_: Any) -> None:
    """Have the pool's processes reach no broker; the worker itself still consumes."""
    if url := os.environ.get("FLEET_WRITE"):
        app.conf.update(broker_write_url=url, task_publish_retry=False)


@task_received.connect
def note_redelivery(request: Any, **_: Any) -> None:
    """Which tasks the broker itself delivered again: these may run twice."""
    if request.delivery_info.get("redelivered"):
        world.sadd("redelivered", request.id)


_began: object = None


@celeryd_init.connect
def share(**_: Any) -> None:
    """Have the processes of a worker forget between tests. A test's own process, which imports this, must not."""
    task_received.connect(begin_anew)
    task_prerun.connect(begin_anew)


def begin_anew(**_: Any) -> None:
    """Forget in this process, of the worker itself or of its pool, what it knows from an earlier test."""
    global _began
    if (began := world.get("began")) != _began:
        if _began is not None:
            testing._forget()
        _began = began


class Kept(Transport):
    """What would be sent to Sentry: which task failed, and with what."""

    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            world.rpush("sentry", f"{event['transaction']} {event['exception']['values'][-1]['type']}")


@celeryd_init.connect
def watch_errors(**_: Any) -> None:
    if os.environ.get("FLEET_SENTRY"):
        sentry_sdk.init("http://key@127.0.0.1:1/1", transport=Kept, integrations=[CeleryIntegration()])


def tell(signal: Any, sender: Any = None, **_: Any) -> None:
    print(f"signal {signal.name} {getattr(sender, 'name', sender)}", flush=True)


if os.environ.get("FLEET_TELL"):
    for each in signals.__all__:
        getattr(signals, each).connect(tell, weak=False)


class Down(ConnectionError):
    """The upstream does not answer."""


def upstream(name: str = "up") -> None:
    """What every task calls. Counts each call with its time."""
    world.rpush("calls", f"{time.time():.6f}")
    world.hincrby("calls by", name, 1)
    if world.exists("down"):
        raise Down("no answer")


PAYMENTS: dict[str, Any] = {
    "breaker": "payments",
    "failure_threshold": 3,
    "recovery_timeout": 0.5,
    "exponential_backoff_max": 0.5,
    "acks_late": True,
}
#: Once open, it is open for as long as any test looks at it.
LEDGER: dict[str, Any] = {"breaker": "ledger", "failure_threshold": 3, "recovery_timeout": 60}
QUICK = Backoff(base=0.05, factor=1, max=0.1)


@breaker_task(**PAYMENTS, bind=True, retry_for=(ConnectionError,), max_retries=1, backoff=QUICK)
def charge(self: Any, order: int) -> dict[str, Any]:
    upstream()
    runs = world.hincrby("runs", str(order), 1)
    return {"order": order, "retries": self.request.retries, "runs": runs}


@breaker_task(**PAYMENTS, bind=True, retry_for=(ConnectionError,), max_retries=9, backoff=QUICK)
def charge_patiently(self: Any, order: int) -> dict[str, Any]:
    """On a busy machine, a retry may come before enough other tasks have failed to open the breaker."""
    upstream()
    return {"order": order, "runs": world.hincrby("runs", str(order), 1)}


@breaker_task(**PAYMENTS, autoretry_for=(ConnectionError,), max_retries=1, default_retry_delay=0.05)
def charge_auto(order: int) -> int:
    upstream()
    return order


@breaker_task(**PAYMENTS, bind=True, max_retries=1)
def charge_by_hand(self: Any, order: int) -> int:
    try:
        upstream()
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=0.05) from error
    return order


@breaker_task(**LEDGER)
def charge_once(order: int) -> int:
    upstream()
    return order


@breaker_task(**LEDGER, acks_late=False)
def charge_early(order: int) -> int:
    upstream()
    return order


@breaker_task(**LEDGER, acks_late=True)
def charge_late(order: int) -> int:
    upstream()
    return order


@breaker_task(**LEDGER, on_open="fail")
def charge_or_fail(order: int) -> int:
    upstream()
    return order


@breaker_task(**LEDGER, on_open="skip", skip_result="skipped")
def charge_or_skip(order: int) -> int:
    upstream()
    return order


@breaker_task(**LEDGER, on_open=lambda order: f"later, {order}")
def charge_or_else(order: int) -> int:
    upstream()
    return order


@breaker_task(breaker="slow-lane", failure_threshold=1, recovery_timeout=42)
def charge_someday(order: int) -> int:
    upstream()
    return order


@breaker_task(breaker="impatient", failure_threshold=1, recovery_timeout=60, max_wait=1)
def charge_soon_or_never(order: int) -> int:
    upstream()
    return order


@rate_limited_task(rate="10/s")
def limited(order: int) -> int:
    world.rpush("limited", f"{time.time():.6f}")
    return order


@rate_limited_task(rate="10/s", acks_late=True)
def limited_late(order: int) -> int:
    world.rpush("limited", f"{time.time():.6f}")
    return order


@rate_limited_task(rate="40/s")
def limited_crowd(order: int) -> int:
    return order


@rate_limited_task(rate="2/h", rate_key="{tenant}")
def per_tenant(order: int, tenant: str) -> str:
    return f"{tenant} {order}"


@rate_limited_task(concurrency=2)
def two_at_a_time(order: int) -> int:
    running = world.incr("running")
    world.rpush("running at a time", running)
    world.blpop(["go on"], timeout=20)
    world.decr("running")
    return order


@rate_limited_task(concurrency=1)
def alone(order: int) -> int:
    while not world.blpop([f"end {order}"], timeout=1):
        pass
    return order


@breaker_task(breaker="steady", failure_threshold=1, recovery_timeout=3)
def steady(order: int) -> int:
    return order


@breaker_task(breaker="steady", bind=True)
def describe(self: Any, order: int) -> dict[str, Any]:
    seen = ("delivery_info", "expires", "headers", "timelimit", "argsrepr", "retries")
    return {"child": headers.delay().id, **{name: getattr(self.request, name) for name in seen}}


@app.task(bind=True)
def headers(self: Any) -> Any:
    return self.request.headers


@breaker_task(breaker="touchy", failure_threshold=1, recovery_timeout=0.5, bind=True, max_retries=0)
def again(self: Any, order: int, other: dict[str, Any] | None = None) -> Any:
    if world.incr(f"again {self.request.id}") == 1:
        raise self.retry(exc=Busy("no"), kwargs={"order": order + 1, "other": other}, **(other or {}))
    return [order, (self.request.headers or {}).get("x-trace"), self.request.retries]


class Busy(ConnectionError):
    retry_after = 1.5


@breaker_task(
    breaker="slow", failure_threshold=1, recovery_timeout=60, soft_time_limit=0.2, expected_exception=ConnectionError
)
def hangs() -> None:
    time.sleep(20)


@breaker_task(breaker="paid", failure_threshold=1, recovery_timeout=4, rate="2/3s")
def paid(order: int) -> int:
    upstream()
    return order


@rate_limited_task(rate="2/h", max_deferrals=0)
def now_or_never(order: int) -> int:
    return order


SETTLING: dict[str, Any] = {
    "breaker": "settling",
    "failure_threshold": 3,
    "recovery_timeout": 1,
    "exponential_backoff_max": 1,
    "on_open": "pause",
    "resume_rate": "50/s",
}


@breaker_task(**SETTLING, acks_late=True, retry_for=(ConnectionError,), max_retries=1, backoff=QUICK)
def settle(order: int) -> int:
    upstream("settle")
    world.hincrby("runs", str(order), 1)
    return order


@breaker_task(
    **PAYMENTS, retry_for=(ConnectionError,), max_retries=2, backoff=QUICK, reject_on_worker_lost=True, max_wait=300
)
def charge_lasting(order: int) -> int:
    upstream()
    world.hincrby("runs", str(order), 1)
    return order


@breaker_task(breaker="lasting", failure_threshold=1, recovery_timeout=30, acks_late=True)
def wait_long(order: int) -> int:
    world.hincrby("runs", str(order), 1)
    return order


@breaker_task(**SETTLING | {"breaker": "settling-other"}, acks_late=True)
def settle_other(order: int) -> int:
    return order


@breaker_task(**SETTLING | {"breaker": "settling-limited", "resume_rate": "1/m"}, acks_late=True, rate="100/s")
def settle_limited(order: int) -> int:
    return order


@breaker_task(**SETTLING | {"breaker": "settling-slowly", "resume_rate": "1/3s"}, acks_late=True)
def settle_slowly(order: int) -> int:
    world.hincrby("runs", str(order), 1)
    return order


@breaker_task(**SETTLING | {"breaker": "settling-hourly", "resume_rate": "1/h"}, acks_late=True)
def settle_hourly(order: int) -> int:
    world.hincrby("runs", str(order), 1)
    return order


@breaker_task(**SETTLING | {"breaker": "settling-alone"}, acks_late=True, concurrency=1)
def settle_alone(order: int) -> int:
    while not world.blpop([f"end {order}"], timeout=1):
        pass
    return order


@breaker_task(breaker="paced", failure_threshold=1, recovery_timeout=1, resume_rate="1/s")
def paced(order: int) -> int:
    world.rpush("paced", f"{time.time():.6f}")
    return order


@breaker_task(**SETTLING, retry_for=(ConnectionError,), max_retries=1, backoff=QUICK)
def settle_early(order: int) -> int:
    upstream("settle")
    world.hincrby("runs", str(order), 1)
    return order


@breaker_task(**LEDGER, on_publish_while_open="raise")
def publish_or_raise(order: int) -> int:
    return order


@breaker_task(**LEDGER, on_publish_while_open=lambda order: f"noted {order}")
def publish_or_else(order: int) -> int:
    return order


@breaker_task(breaker="beaten-briefly", failure_threshold=1, recovery_timeout=1, coalesce=True, max_wait=1.5)
def tick_briefly() -> str:
    return "ticked"


@breaker_task(
    breaker="beaten",
    failure_threshold=1,
    recovery_timeout=2,
    cache_ttl=0,
    coalesce=True,
    skip_result="one waits already",
)
def tick(number: int = 0) -> str:
    upstream("tick")
    return f"ticked {number}"


@breaker_task(breaker="buried", failure_threshold=1, recovery_timeout=60, max_deferrals=0, dead_letter="graveyard")
def bury_me(order: int) -> int:
    return order


@breaker_task(breaker="heavy", failure_threshold=1, recovery_timeout=3, max_deferred_in_worker=5)
def held(order: int) -> int:
    world.hincrby("runs", str(order), 1)
    return order


@rate_limited_task(rate="10/h", rate_key=lambda tenant, size: tenant, cost=lambda tenant, size: size)
def weighed(tenant: str, size: int) -> int:
    return size


@app.task
def total(orders: list[int]) -> int:
    world.incr("totals")
    return sum(orders)


@app.task
def plain(order: int) -> int:
    return order


__all__ = ["CircuitBreakerError", "app", "world"]
