"""Real workers of every pool move and fetch."""

from __future__ import annotations

import pytest
import redis

from tests.servers import Process, eventually

from .conftest import Place

WAYS = [
    *((broker, pool) for broker in ("valkey", "rabbitmq") for pool in ("prefork", "threads", "gevent", "solo")),
    ("quorum", "prefork"),
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("place", "pool"), WAYS, indirect=["place"])
def test_each_task_waits_and_runs_once(place: Place, waiting_valkey: str, pool: str) -> None:
    count = 20 if pool == "gevent" else 200  # there Celery 5.7 waits for 0.1 s after each message from RabbitMQ
    world = waiting_valkey.replace("/0", "/3")
    environ = {
        "WAITING_KIND": place.kind,
        "WAITING_BROKER": place.url,
        "WAITING_QUEUE": place.name,
        "WAITING_WORLD": world,
    }
    options = ("-P", pool, "-c", "4", "-l", "INFO", "--without-gossip", "--without-mingle")
    with (
        Process.python("-m", "celery", "-A", "tests.celery.waiting.app", "worker", *options, environ=environ) as worker,
        redis.Redis.from_url(world, decode_responses=True) as client,
    ):
        client.flushdb()
        worker.wait_for("ready.")
        app = place.app()
        with app.connection_for_write() as connection, app.amqp.Producer(connection.channel()) as producer:
            for n in range(count):
                app.send_task("tests.celery.waiting.app.record", (n,), producer=producer)
        eventually(lambda: client.llen("runs") >= count, timeout=60)
        assert sorted(client.lrange("runs", 0, -1)) == sorted(f"{n}  {place.name}" for n in range(count))
        worker.popen.terminate()
        worker.popen.wait(30)
        assert "Traceback" not in worker.output
        assert "resilient_tasks" not in worker.output, "a warning"
        assert client.llen("runs") == count
