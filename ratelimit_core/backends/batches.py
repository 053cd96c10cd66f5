"""Help backends to decide several batches of calls, each on its own: see :meth:`Backend.apply_each`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from .._util.steps import Steps
from ..policies import Verdict
from ..protocol.call import Call, is_allowed, reject_duplicates

Batches = Sequence[Sequence[Call]]


def to_decide(batches: Batches, most: int | None) -> Batches:
    """Return the batches that a store has to decide, to allow ``most`` of them.

    Raises:
        ValueError: two calls of one batch have the same policy and key.
    """
    for calls in batches:
        reject_duplicates(calls)
    return [] if most is not None and most < 1 else [calls for calls in batches if calls]


def answers(batches: Batches, found: Sequence[list[Verdict]]) -> list[list[Verdict]]:
    """Return one list for each batch. ``found`` has the verdicts of those :func:`to_decide`, in their order."""
    rest = iter(found)
    return [next(rest, []) if calls else [] for calls in batches]


def apply_by_place(
    batches: Batches,
    most: int | None,
    place: Callable[[str], int],
    together: Callable[[Batches, int | None], Steps[list[list[Verdict]]]],
    spread: Callable[[Sequence[Call]], Steps[list[Verdict]]],
) -> Steps[list[list[Verdict]]]:
    """Decide batches whose records are in several places, such as slots of a cluster.

    The batches in one place are decided together, when the first of them is due. A batch in several places is decided
    alone. ``most`` batches are allowed in all places together.

    Args:
        place: returns the place of a name.
        together: decides batches in one place. Its second argument is how many of them to allow.
        spread: decides a batch in several places.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, calls in enumerate(batches):
        places = frozenset([place(call.key[0]) for call in calls])
        groups.setdefault(places if len(places) == 1 else i, []).append(i)
    found: list[list[Verdict]] = [[] for _ in batches]
    allowed = 0
    for key, indices in groups.items():
        if allowed == most:
            break
        if key == indices[0]:
            verdicts = [(yield from spread(batches[indices[0]]))]
        else:
            left = None if most is None else most - allowed
            verdicts = yield from together([batches[i] for i in indices], left)
        for i, each in zip(indices, verdicts, strict=False):  # undecided batches at the end may be left out
            found[i] = each
            allowed += bool(each) and is_allowed(each)
    return found
