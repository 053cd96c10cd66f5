"""Ask several questions in one round trip, each decided on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from .._util.steps import Steps
from ..errors import ResilienceError
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

    Costs one round trip for all of them, or none if there are no batches and cached verdicts answer all questions. What
    a question does after its first round trip, such as writing the history of a breaker, costs one more.

    Args:
        before: batches that are always allowed.
        questions: the steps of guards, as :meth:`Guard.steps` returns them.
        room: the number of questions that may be allowed.

    Returns:
        The verdicts on ``before``, and the answers to the questions.

    Raises:
        BackendError: the store is unavailable. No question was decided.
    """
    answers: list[Answer[R]] = [Answer()] * len(questions)
    asked: dict[int, list[Call]] = {}
    for i, question in enumerate(questions):
        if room > 0:
            first = _begin(question)
            if isinstance(first, Answer):
                answers[i] = first
                room -= first.error is None
            else:
                asked[i] = first
    batches = [*before, *asked.values()]
    try:
        verdicts: list[list[Verdict]] = (yield "apply_each", batches, len(before) + room) if batches else []
    except BaseException:
        for i in asked:
            questions[i].close()
        raise
    for i, verdict in zip(asked, verdicts[len(before) :], strict=True):
        answers[i] = yield from _finish(questions[i], verdict)
    return verdicts[: len(before)], answers


def _begin(question: Steps[R]) -> Answer[R] | list[Call]:
    """Return the calls of the question's round trip, or its answer if it needs none."""
    try:
        method, calls = next(question)
    except StopIteration as end:
        return Answer(result=end.value)
    except ResilienceError as error:
        return Answer(error=error)
    assert method == "apply"
    return list(calls)


def _finish(question: Steps[R], verdicts: Sequence[Verdict]) -> Steps[Answer[R]]:
    """Tell a question the verdicts on its calls, take its other steps, and return its answer."""
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
