"""Several limits asked as one, and their verdicts put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._util.clock import SECOND
from ..policies import (
    ALLOWED,
    ANSWER,
    OTHER_ANSWER,
    WAIT,
    Verdict,
)
from ..protocol.call import Call
from .decision import Decision
from .limit import Limit

_new = tuple.__new__
"""What a named tuple is made by, without the function that would name what is in it: on the way of every check."""


class Question(NamedTuple):
    """The calls that ask some limits as one, and what their answer will say about itself."""

    limits: Sequence[Limit]
    calls: list[Call]
    cost: int
    ticket: str = ""
    takes: bool = False
    redeems: bool = False


def decide(question: Question, verdicts: Sequence[Verdict], *, local: bool) -> Decision:
    """One answer from those of several limits, asked together."""
    limits = question.limits
    if len(verdicts) == 1:
        (verdict,), (limit,) = verdicts, limits
        allowed = verdict[ALLOWED] == 1
        left, reset, wait = verdict[ANSWER], verdict[OTHER_ANSWER] / SECOND, verdict[WAIT] / SECOND
        reservation_kept = not allowed and limit.reservable and verdict[-1] > 0
        _, _, cost, ticket, takes, _ = question
        end = cost, reservation_kept, allowed and takes, local
        return _new(Decision, (allowed, limit.allowance, left, reset, wait, ticket, 0, 0, *end))
    allowed = all(verdict[ALLOWED] for verdict in verdicts)
    # If one denied, the others have no say: they answered as if they had counted what now counts nowhere.
    telling = [i for i, verdict in enumerate(verdicts) if allowed or not verdict[ALLOWED]]
    binding = min(telling, key=lambda i: (verdicts[i][ANSWER], -verdicts[i][WAIT], -verdicts[i][OTHER_ANSWER]))
    which = max(telling, key=lambda i: verdicts[i][WAIT])
    return Decision(
        allowed=allowed,
        limit=limits[binding].allowance,
        remaining=verdicts[binding][ANSWER],
        reset_after=max(verdict[OTHER_ANSWER] for verdict in verdicts) / SECOND,
        retry_after=verdicts[which][WAIT] / SECOND,
        ticket=question.ticket,
        binding=binding,
        denied_by=which,
        cost=question.cost,
        reservation_kept=not verdicts[which][ALLOWED] and limits[which].reservable and verdicts[which][-1] > 0,
        consumed=allowed and question.takes,
        local=local,
    )
