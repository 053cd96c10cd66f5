"""The Celery application. One Redis or Valkey has the broker, the results and the shared state of the breakers."""

import os
from collections.abc import Mapping

from celery import Celery
from celery.signals import worker_process_init

from example_worker.processes import die_with_parent

SITE = "example_worker.settings"

app = Celery("example_worker", include=["example_worker.tasks"])
if os.environ.get("DJANGO_SETTINGS_MODULE") == SITE:  # the site has a database for the progress of orders
    app.conf.include.append("example_worker.progress")


def connect(environ: Mapping[str, str]) -> None:
    """Configure the app for the Redis or Valkey of ``REDIS_URL``. All keys begin with ``EXAMPLE_PREFIX``."""
    url = environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    prefix = environ.get("EXAMPLE_PREFIX", "example.")
    app.conf.update(
        broker_url=url,
        broker_transport_options={"global_keyprefix": prefix},
        broker_connection_retry_on_startup=True,
        result_backend=url,
        result_backend_transport_options={"global_keyprefix": prefix},
        result_extended=True,  # so that a result has the number of retries
        resilience_backend=url,
        resilience_key_prefix=prefix,
        worker_send_task_events=True,  # for Flower
        task_send_sent_event=True,
    )


connect(os.environ)


@worker_process_init.connect
def follow_the_worker(**_: object) -> None:
    """End each pool process together with its worker, even if the worker was killed."""
    die_with_parent()
