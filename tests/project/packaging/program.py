"""What an installed wheel can do, run by the tests beside it where nothing else is. Its argument is a Valkey's URL."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import django
from celery import Celery
from django.conf import settings
from django.core.management import call_command

import ratelimit_core
from ratelimit_core import CircuitBreaker, Limiter
from ratelimit_core.limiter import Algorithm
from ratelimit_core.policies import ALLOWED, POLICIES
from ratelimit_core.protocol import place
from ratelimit_core.store.configured import get_backend
from ratelimit_core.testing import breaker_open, isolated

assert Path(sys.prefix) in Path(ratelimit_core.__file__).parents, ratelimit_core.__file__
settings.configure(
    INSTALLED_APPS=[
        *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")),
        "rest_framework",
        "ratelimit_core.django",
    ],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()

from django.template.loader import get_template  # noqa: E402 - Django has to be set up before

import ratelimit_core.django.admin  # noqa: E402
import ratelimit_core.django.console.views  # noqa: E402
import ratelimit_core.django.drf  # noqa: E402
from resilient_tasks import breaker_task  # noqa: E402
from resilient_tasks.testing import assert_deferred  # noqa: E402

call_command("migrate", verbosity=0)
ALGORITHMS: tuple[Algorithm, ...] = (
    "sliding_window",
    "sliding_window_counter",
    "fixed_window",
    "token_bucket",
    "leaky_bucket",
)

for store in ("memory://", sys.argv[1], "django-db://default"):
    with isolated(backend=store, key_prefix="packaging"):
        for algorithm in ALGORITHMS:  # whose Lua, SQL and quick hits are files of the package
            limiter = Limiter("1/h", key=algorithm, algorithm=algorithm)
            assert [limiter.hit().allowed for _ in range(2)] == [True, False], (store, algorithm)
        batches = [place.take("queue", key, 7) for key in ("a", "b")]
        taken = [[verdict[ALLOWED] for verdict in verdicts] for verdicts in get_backend().apply_each(batches)]
        assert taken == [[1, 1, 1], [1, 0, 1]], (store, taken)
        breaker = CircuitBreaker("packaging")
        breaker.report_failure(ValueError())
        assert breaker.get_status()["failure_count"] == 1, store
for policy in POLICIES:
    assert (files("ratelimit_core") / "policies" / "generated" / "sql" / f"{policy}.sql").is_file(), policy

get_template("resilience/fleet.html")
app = Celery("packaging", broker="memory://", backend="cache+memory://")
app.set_default()


@breaker_task(breaker="packaging", name="packaged")
def packaged() -> None: ...


with isolated(), breaker_open("packaging"):
    assert assert_deferred(packaged).task == "packaged"
print("all of it works")
