"""A task that comes from its source queue asks whether tasks of its key wait already."""

from __future__ import annotations

from collections.abc import Sequence

from .._util.steps import Steps
from ..errors import BackendError, ResilienceError
from ..policies import Verdict
from ..protocol.place import PlaceVerdict, look


class KeyWaits(ResilienceError):
    """Tasks of this key wait, so a newcomer goes behind them.

    Attributes:
        number: the number of their waiting queue.
    """

    def __init__(self, key: str, number: int) -> None:
        super().__init__(f"tasks of {key!r} wait already")
        self.number = number


class Newcomer:
    """A question that a task asks together with those of its guard: see :meth:`Guard.steps`.

    So the store decides whether the task may overtake, and not the worker, whose view may be older.
    """

    def __init__(self, queue: str, key: str) -> None:
        self._key = key
        self.calls = [look(queue, key)]

    def on_verdicts(self, verdicts: Sequence[Verdict], *, allowed: bool) -> Steps[None]:
        """Raise :class:`KeyWaits` if tasks of the key wait."""
        yield from ()
        verdict = PlaceVerdict.of(verdicts[0])
        if not verdict.allowed:
            raise KeyWaits(self._key, verdict.holder - 1)

    def on_unavailable(self, error: BackendError) -> Steps[None]:
        """Allow the task, because without the store no places are known. Its guard decides."""
        yield from ()

    def on_discarded(self) -> None:
        """Do nothing, because the question changes nothing."""
