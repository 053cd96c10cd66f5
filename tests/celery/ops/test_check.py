"""``python -m resilient_tasks check`` on real brokers and stores, and on what is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests import servers
from tests.servers import ROOT

APP = """
from celery import Celery
from resilient_tasks import breaker_task

app = Celery("shop", broker={broker!r})
app.conf.update({conf!r})


@breaker_task(breaker="payments", name="charge", on_open="pause", acks_late=True)
def charge(): ...
"""
DEAD = "redis://someone:secret@127.0.0.1:1/0"


class Said(NamedTuple):
    status: int
    text: str
    errors: str

    def found(self) -> list[dict[str, str]]:
        return list(json.loads(self.text))

    def of(self, level: str) -> str:
        return "\n".join(each["what"] for each in self.found() if each["level"] == level)


def check(directory: Path, *arguments: str, **environ: str) -> Said:
    servers.needed()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RATELIMIT_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "resilient_tasks", "check", *arguments],
        cwd=directory,
        env={**kept, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def write(directory: Path, broker: str, **conf: Any) -> None:
    (directory / "shop.py").write_text(APP.format(broker=broker, conf=conf))


def test_a_sound_app(tmp_path: Path, valkey_url: str) -> None:
    write(tmp_path, valkey_url, resilience_backend=valkey_url, worker_prefetch_multiplier=1)
    said = check(tmp_path, "-A", "shop", "--json")
    assert (said.status, said.of("error"), said.errors) == (0, "", "")
    assert said.of("warning") == "the broker's Redis does not log every command (appendonly no)"
    assert check(tmp_path, "-A", "shop", "--fail-on", "warning").status == 1


def test_a_redis_that_is_a_cache(tmp_path: Path) -> None:
    with servers.valkey() as url, redis.Redis.from_url(url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        write(tmp_path, url, resilience_backend=url)
        said = check(tmp_path, "-A", "shop", "--json")
    assert "the store's Redis has maxmemory-policy allkeys-lru" in said.of("warning")
    assert "the broker's Redis has maxmemory-policy allkeys-lru" in said.of("warning")
    assert "worker_prefetch_multiplier=4 with on_open='pause' (charge)" in said.of("warning")


def test_a_time_limit_beyond_what_the_broker_holds(tmp_path: Path, valkey_url: str) -> None:
    conf = {"task_acks_late": True, "broker_transport_options": {"visibility_timeout": 60}}
    write(tmp_path, valkey_url, resilience_backend=valkey_url, task_time_limit=90, **conf)
    assert "task_acks_late with task_time_limit=90, but" in check(tmp_path, "-A", "shop", "--json").of("warning")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_rabbitmq(tmp_path: Path, kind: str, valkey_url: str) -> None:
    with servers.rabbitmq() as url:
        write(tmp_path, url, resilience_backend=valkey_url, task_default_queue_type=kind)
        said = check(tmp_path, "-A", "shop", "--json")
    assert said.status == 0
    waits = {"classic": "workers hold deferred tasks", "quorum": "RabbitMQ itself delays deferred tasks"}
    assert waits[kind] in said.of("info")


def test_nothing_answers(tmp_path: Path) -> None:
    write(tmp_path, DEAD, resilience_backend=DEAD)
    said = check(tmp_path, "-A", "shop", "--json")
    assert said.status == 1
    assert "the store does not answer" in said.of("error")
    assert "does not answer" in said.of("error").partition("the broker ")[2]
    assert "secret" not in said.text + said.errors
    assert "Traceback" not in said.text + said.errors


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("def (", "SyntaxError"),
        ("", "can't be loaded"),
        (APP.format(broker="memory://", conf={"resilience_backend": "rediss+sentinal://x"}), "did you mean"),
        (APP.format(broker="nonsense://x", conf={"resilience_backend": "memory://"}), "No such transport"),
    ],
)
def test_a_broken_app_gives_no_traceback(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "shop.py").write_text(text)
    said = check(tmp_path, "-A", "shop", "--json")
    assert said.status == 1
    assert says in said.of("error")
    assert "Traceback" not in said.errors


def test_memory_and_no_task(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from celery import Celery\napp = Celery('shop', broker='memory://')\n")
    said = check(tmp_path, "-A", "shop")
    assert said.status == 1
    assert "error: the store is memory" in said.text
    assert "    instead: app.conf.resilience_backend = 'redis://...'" in said.text
    assert "warning: no task is protected" in said.text


def test_django_settings(tmp_path: Path, valkey_url: str) -> None:
    (tmp_path / "site_settings.py").write_text(
        f"SECRET_KEY = 'x'\nRATELIMIT_BACKEND = {valkey_url!r}\nRATELIMIT_KEYPREFIX = 'shop'\n"
        "INSTALLED_APPS = ['ratelimit_core.django']\n"
    )
    said = check(tmp_path, "--json", DJANGO_SETTINGS_MODULE="site_settings")
    assert said.status == 1
    assert said.of("error") == "RATELIMIT_KEYPREFIX is not a setting."
    assert next(each["instead"] for each in said.found() if each["level"] == "error").startswith("Did you mean")
    broken = check(tmp_path, "--json", DJANGO_SETTINGS_MODULE="no_such_settings")
    assert broken.status == 1
    assert "no_such_settings" in broken.of("error")
    assert "Traceback" not in broken.errors
