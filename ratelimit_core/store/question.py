"""What a part of a guard asks the store, together with the other parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from ..errors import BackendError
from ..policies import Verdict
from ..protocol.call import Call
from .drive import Steps

R_co = TypeVar("R_co", covariant=True)


class Question(Protocol[R_co]):
    """A question of a guard to the store, which is asked in one round trip with the guard's other questions."""

    @property
    def calls(self) -> Sequence[Call]:
        """The calls to send to the store."""

    def on_verdicts(self, verdicts: Sequence[Verdict], *, allowed: bool) -> Steps[R_co | None]:
        """Read the verdicts, and return the permit or the decision.

        Return None if the store allowed the calls of this question, but not those of another question.

        Args:
            verdicts: the answers to :attr:`calls`.
            allowed: whether all calls of the round trip were allowed.

        Raises:
            ResilienceError: the store did not allow the calls of this question.
        """

    def on_unavailable(self, error: BackendError) -> Steps[R_co]:
        """Return the permit or the decision while the store is unavailable.

        Raises:
            ResilienceError: the call is rejected or denied.
        """

    def on_discarded(self) -> None:
        """Undo the preparation of this question, because the store did not act on it."""
