"""Nodes that are Docker containers: pytest-celery's own, with our packages in the worker's."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from pytest_celery import DEFAULT_WORKER_CONTAINER_TIMEOUT, DEFAULT_WORKER_VOLUME
from pytest_docker_tools import build, container, fxtr

from tests.nodes.worker import Worker
from tests.servers import ROOT, missing

INSTALLED = ["celery", "django", "hiredis", "kombu", "pytest-celery", "redis"]
"""What a worker needs, of the same versions as the tests."""


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    reason = ""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # unanswered, it leaves its socket open
        try:
            client = docker.from_env()
            client.ping()
        except DockerException as error:
            reason = f"no Docker engine answers: {error}"
        gc.collect()
    if reason:
        missing(reason)
    yield client
    client.close()


celery_base_worker_image = build(
    path=str(Path(__file__).parent),
    tag="resilient-tasks/tests/worker",
    buildargs={"REQUIREMENTS": " ".join(f"{name}=={version(name)}" for name in INSTALLED)},
)

default_worker_container = container(
    image="{celery_base_worker_image.id}",
    ports=fxtr("default_worker_ports"),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes={
        "{default_worker_volume.name}": DEFAULT_WORKER_VOLUME,
        **{
            str(ROOT / package): {"bind": f"/app/{package}", "mode": "ro"}
            for package in ("ratelimit_core", "resilient_tasks")
        },
    },
    wrapper_class=Worker,
    timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
    command=fxtr("default_worker_command"),
)
