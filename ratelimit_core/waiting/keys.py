"""The waiting keys of one source queue, as one worker sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from .._util.clock import SECOND, microseconds
from .._util.steps import Steps
from ..errors import CircuitBreakerError, RateLimitExceeded, ResilienceError
from ..policies import ALLOWED
from ..protocol import place
from ..protocol.place import PlaceVerdict
from .ask import ask_each

R = TypeVar("R")

NUMBERS = 256
"""The default of the largest number of waiting queues beside a source queue."""
KEYS_AT_A_TIME = 64
"""The most keys that one question asks for. The next question asks for others."""
LONGEST_PAUSE = 5 * SECOND
"""The longest time in µs between two questions for a key, because an operator may reset a limit at any time."""
BREAKER_PAUSE = SECOND // 2
"""The longest time in µs between two questions for a key whose breaker is not closed: another worker may close it."""
_CANDIDATES = 8
"""The numbers that one question tries to take for a key."""


@dataclass(slots=True)
class _Waiting:
    """What this worker knows of a waiting key.

    Attributes:
        number: the number of its waiting queue.
        ask_at: the time in µs on the worker's clock before which it need not ask.
        moved: whether tasks were moved there that are not reported yet.
        blocked_by_runs: whether the last question was denied until another run ends.
        served: the order in which keys were granted something; the key that was served first comes next.
    """

    number: int
    ask_at: int = 0
    moved: bool = False
    blocked_by_runs: bool = False
    served: int = 0


class Granted(NamedTuple, Generic[R]):
    """Admissions for tasks of ``key``, which are to be fetched from the waiting queue ``number``."""

    key: str
    number: int
    admissions: list[R]


class WaitingKeys:
    """The waiting keys of the source queue ``queue``.

    A worker's view may be older than the store. A key that the worker does not know is found by the question of a
    newcomer (:func:`ratelimit_core.protocol.place.look`) or by a listing. If another worker has left a key, or the
    store was flushed, the next :meth:`ask` notices it, and the key is in :attr:`lost`.

    Attributes:
        lost: the keys whose place is gone. Tasks may still be in their waiting queues, so :meth:`enter` them again.
    """

    def __init__(self, queue: str, *, most_numbers: int = NUMBERS) -> None:
        self.queue = queue
        self.most_numbers = most_numbers
        self.lost: set[str] = set()
        self._known: dict[str, _Waiting] = {}
        self._served = 0

    def number_of(self, key: str) -> int | None:
        """Return the number of the key if it waits, as far as this worker knows."""
        known = self._known.get(key)
        return None if known is None else known.number

    def found(self, key: str, number: int) -> None:
        """Note that the key has that number."""
        known = self._known.setdefault(key, _Waiting(number))
        known.number = number

    def moved(self, key: str) -> None:
        """Note that a task was moved to the waiting queue of the key. The next :meth:`ask` reports it."""
        self._known[key].moved = True

    def ended(self, key: str, now: int) -> None:
        """Note that a run of the key has ended. If the key waits for that, the next question asks for it."""
        known = self._known.get(key)
        if known is not None and known.blocked_by_runs:
            known.ask_at = now

    def enter(self, key: str) -> Steps[int]:
        """Give the key a number, and return it: its own if it has one, otherwise the lowest that is free.

        If no number is free, the key shares one. Costs one round trip, or more if other workers take numbers meanwhile.
        """
        before = self.number_of(key)
        taken = {known.number for name, known in self._known.items() if name != key}
        free = [number for number in range(self.most_numbers) if number not in taken]
        if before is not None:
            free.sort(key=lambda number: number != before)
        number = place.hash_of(key) % self.most_numbers
        for start in range(0, len(free), _CANDIDATES):
            candidates = free[start : start + _CANDIDATES]
            answers = yield "apply_each", [place.take(self.queue, key, each) for each in candidates], 1
            allowed = [bool(verdicts) and all(verdict[ALLOWED] for verdict in verdicts) for verdicts in answers]
            holder = PlaceVerdict.of(answers[0][0]).holder
            if True in allowed:
                number = candidates[allowed.index(True)]
                break
            if not answers[0][0][ALLOWED]:
                number = holder - 1
                break
        else:
            [verdicts] = yield "apply_each", [place.share(self.queue, key, number)], None
            number = PlaceVerdict.of(verdicts[0]).holder - 1
        self.lost.discard(key)
        self.found(key, number)
        return number

    def leave(self, key: str, now: int) -> Steps[bool]:
        """Give up the number of a key whose waiting queue is empty. Return whether that was possible.

        It is not possible for a while after a task was moved there. Costs one round trip.
        """
        known = self._known.get(key)
        if known is None or known.moved:
            return False
        both = place.leave(self.queue, key, known.number)
        shared = place.leave_shared(self.queue, key, known.number)
        answers = yield "apply_each", [both, shared], 1
        left = any(verdicts and all(verdict[ALLOWED] for verdict in verdicts) for verdicts in answers)
        verdict = PlaceVerdict.of(answers[0][0])
        if left or verdict.holder == 0:
            self._known.pop(key, None)
            self.lost.discard(key)
            return True
        known.number = verdict.holder - 1
        known.ask_at = now + verdict.wait
        return False

    def due(self, now: int) -> list[str]:
        """Return the keys to ask for now. The key that was granted an admission least recently comes first."""
        due = [(known.served, known.ask_at, key) for key, known in self._known.items() if known.ask_at <= now]
        return [key for *_, key in sorted(due)[:KEYS_AT_A_TIME]]

    def next_due(self) -> int | None:
        """Return the time in µs at which to ask next, or None if no key waits."""
        return min((known.ask_at for known in self._known.values()), default=None)

    def ask(self, now: int, room: int, question: Callable[[str], Steps[R]]) -> Steps[list[Granted[R]]]:
        """Ask for up to ``room`` admissions, over the keys that are due, round robin. Report what was moved.

        Costs one round trip, or none if there is nothing to ask and to report.

        Args:
            now: the time in µs on the worker's clock.
            room: the number of runs that the worker can begin.
            question: returns the steps that acquire one admission of a key.
        """
        keys = self.due(now) if room > 0 else []
        reported = [key for key, known in self._known.items() if known.moved]
        if not keys and not reported:
            return []
        reports = [place.touch(self.queue, key, self._known[key].number) for key in reported]
        turns = [place.turn(self.queue, key, self._known[key].number) for key in keys]
        asked = keys * -(-room // len(keys)) if keys else []
        verdicts, answers = yield from ask_each([turns, *reports], [question(key) for key in asked], room)
        for key, (verdict, _) in zip(reported, verdicts[1:], strict=True):
            self._known[key].moved = False
            self._confirm(key, PlaceVerdict.of(verdict))
        waits = {}
        for key, verdict in zip(keys, map(PlaceVerdict.of, verdicts[0]), strict=True):
            waits[key] = verdict.wait
            self._known[key].ask_at = now
            self._known[key].blocked_by_runs = False
            self._confirm(key, verdict)
        granted: dict[str, list[R]] = {}
        for key, answer in zip(asked, answers, strict=True):
            if answer.error is not None:
                self._denied(key, answer.error, now, waits[key])
            elif answer.result is not None:
                granted.setdefault(key, []).append(answer.result)
                self._served += 1
                self._known[key].served = self._served
        return [Granted(key, self._known[key].number, each) for key, each in granted.items()]

    def _confirm(self, key: str, verdict: PlaceVerdict) -> None:
        """Compare the number of the key with the one that the store has."""
        if verdict.holder == 0:
            self.lost.add(key)
        else:
            self._known[key].number = verdict.holder - 1

    def _denied(self, key: str, error: ResilienceError, now: int, turn: int) -> None:
        known = self._known[key]
        longest = BREAKER_PAUSE if isinstance(error, CircuitBreakerError) else LONGEST_PAUSE
        wait = min(microseconds(getattr(error, "retry_after", None) or 0.0), longest)
        known.blocked_by_runs = isinstance(error, RateLimitExceeded) and error.until_released
        known.ask_at = now + max(wait, turn, 1)
