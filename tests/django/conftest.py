"""Django as a project has it, and views that are decorated by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import django
import pytest
from django.conf import settings as django_settings
from django.test import Client, RequestFactory, override_settings

from ratelimit_core.backends import MemoryBackend
from ratelimit_core.testing import ManualClock
from tests.django import settings

if not django_settings.configured:
    django_settings.configure(**{name: value for name, value in vars(settings).items() if name.isupper()})
django.setup()


@pytest.fixture
def requests() -> RequestFactory:
    return RequestFactory()


@pytest.fixture
def backend(clock: ManualClock) -> MemoryBackend:
    """A store of the test's own, on its clock."""
    return MemoryBackend(clock=clock)


Configure = Callable[..., object]


@pytest.fixture
def configured() -> Iterator[Configure]:
    """Changes settings of the project for a test: ``configured(RATELIMIT_ENABLE=False)``."""
    with ExitStack() as stack:
        yield lambda **values: stack.enter_context(override_settings(**values))


@pytest.fixture
def site(configured: Configure) -> Callable[..., Client]:
    """A client of the project, with settings that may be given."""

    def site(**values: Any) -> Client:
        configured(ROOT_URLCONF="tests.django.urls", MIDDLEWARE=settings.MIDDLEWARE, **values)
        return Client(raise_request_exception=False)

    return site
