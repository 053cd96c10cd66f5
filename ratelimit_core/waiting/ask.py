"""Ask several questions in one round trip, each decided on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from .._util.steps import Steps
from ..errors import BackendError, ResilienceError
from ..policies import Verdict
from ..protocol.call import Call

R = TypeVar("R")


class Answer(NamedTuple, Generic[R]):
    """The answer to one question: what the question returned, or the error that it raised.

    Both are None if the question was not asked, because as many as wanted had been allowed before it.
    """

    result: R | None = None
    error: ResilienceError | None = None


def ask_each(
    before: Sequence[Sequence[Call]], questions: Sequence[Steps[R]], room: int
) -> Steps[tuple[list[list[Verdict]], list[Answer[R]]]]:
    """Decide the batches ``before``, then the questions in their order until ``room`` of them are allowed.

    ``before`` are batches that are always allowed. Each of ``questions`` are the steps of a guard that begin with one
    round trip, as those of :meth:`Guard.acquire` do. Costs one round trip for all of them. Another round trip of a
    question, such as the history of a breaker, is made after that.

    Returns:
        The verdicts on ``before``, and the answers to the questions.

    Raises:
        BackendError: the store is unavailable. All questions are closed, and nothing was decided.
    """
    batches = [list(batch) for batch in before]
    for question in questions:
        method, calls = next(question)
        assert method == "apply"
        batches.append(calls)
    try:
        verdicts: list[list[Verdict]] = yield "apply_each", batches, len(before) + room
    except BackendError:
        for question in questions:
            question.close()
        raise
    answers = []
    for question, verdict in zip(questions, verdicts[len(before) :], strict=True):
        answers.append((yield from _finish(question, verdict)))
    return verdicts[: len(before)], answers


def _finish(question: Steps[R], verdicts: Sequence[Verdict]) -> Steps[Answer[R]]:
    if not verdicts:
        question.close()
        return Answer()
    try:
        step = question.send(verdicts)
        while True:
            try:
                done = yield step
            except BaseException as error:
                step = question.throw(error)
            else:
                step = question.send(done)
    except StopIteration as end:
        return Answer(result=end.value)
    except ResilienceError as error:
        return Answer(error=error)
