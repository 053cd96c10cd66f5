"""The errors of this package. None is one that Celery takes for the loss of its connection."""

from __future__ import annotations

from ratelimit_core.errors import ResilienceError


class WaitingImpossible(ResilienceError):
    """Messages can't wait in this broker, or not those of this queue. The error says why."""


class BrokerUnavailable(ResilienceError):
    """The broker did not answer. Asking again later makes sense."""


class MoveFailed(ResilienceError):
    """A message that was acknowledged already could not be moved. It exists nowhere but in this process."""


def described(error: BaseException) -> str:
    """Return the kind and the text of an error. The ``repr`` of some errors of redis-py lacks the text."""
    return f"{type(error).__name__}: {error}"
