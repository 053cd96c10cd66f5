"""The Celery application: where the broker, the results and the shared state of the breakers live."""

import os
from collections.abc import Mapping

from celery import Celery
from celery.signals import worker_process_init

from example_worker.processes import die_with_parent

SITE = "example_worker.settings"

app = Celery("example_worker", include=["example_worker.tasks"])
if os.environ.get("DJANGO_SETTINGS_MODULE") == SITE:  # there is a database to write to
    app.conf.include.append("example_worker.progress")


def connect(environ: Mapping[str, str]) -> None:
    """Point the app at the Redis or Valkey of ``REDIS_URL``; its keys there begin with ``EXAMPLE_PREFIX``."""
    url = environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    prefix = environ.get("EXAMPLE_PREFIX", "example.")
    app.conf.update(
        broker_url=url,
        broker_transport_options={"global_keyprefix": prefix},
        broker_connection_retry_on_startup=True,
        result_backend=url,
        result_backend_transport_options={"global_keyprefix": prefix},
        result_extended=True,  # a result tells how many retries it took
        resilience_backend=url,
        resilience_key_prefix=prefix,
        worker_send_task_events=True,  # what Flower shows
        task_send_sent_event=True,
    )


connect(os.environ)


@worker_process_init.connect
def follow_the_worker(**_: object) -> None:
    """A pool process ends with its worker, even with one that was killed."""
    die_with_parent()
