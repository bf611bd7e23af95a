"""Two counts of each subject over a window that moves on, in bounded memory and bounded steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from ..steps import Steps, batches, finish

OVERFLOW = "__overflow__"


Subject = TypeVar("Subject", bound=Hashable)


Counted = tuple[Subject, int, int]


# Both counts of a subject live in one integer, the first in its lowest bits: they are added and
# subtracted in one step, and a slot holds one number for each subject. 2**40 requests are more
# than a window will ever see; the other count, such as tokens, has all the room it needs.
_SHIFT = 40


_FIRST = (1 << _SHIFT) - 1


_STRIDE = 1000  # subjects of an old slot that are subtracted at a time: about 0.2 ms


_NEVER = float("inf")


# With the highest count and weight since the last evaluation.
Hot = dict[Subject, tuple[int, int]]


class RollingWindow(Generic[Subject]):
    """A count, and a second one (its weight), of each subject over the last `window` seconds.

    The window moves in `slots` steps and keeps its oldest step whole: it covers from `window` to
    `window` + one step, so that nothing of the window is ever missed. A step that has left the
    window is subtracted at most 1,000 subjects at a time, at each `expire` and `drain`; until
    that is done its rest is counted still.

    A subject whose count or weight reaches the level given to `set_levels` is hot until
    `begin_evaluation`
    finds it below: those alone need looking at, however many there are.

    Args:
        window: Seconds.
        slots: Steps that the window moves in.
        max_subjects: Subjects that are told apart; the others are counted as `overflow`.
        overflow: Stands for all of the others.

    Attributes:
        next_at: When the next step begins: call `expire` before counting anything after it.
        overflowed: How much was counted as `overflow`, and how many hot subjects went unseen.
    """

    def __init__(self, *, window: float, slots: int, max_subjects: int, overflow: Subject) -> None:
        self.next_at = float("-inf")
        self.overflowed = 0
        self._step, self._slots = window / slots, slots
        self._most, self._overflow = max_subjects, overflow
        self._past: deque[tuple[float, dict[Subject, int]]] = deque()
        self._number = float("-inf")  # of the slot that is being filled
        self._filling: dict[Subject, int] = {}
        self._totals: dict[Subject, int] = {}  # of all slots
        self._hot: Hot[Subject] = {}
        self._count_at = self._weight_at = _NEVER

    def add(self, subject: Subject, count: int, weight: int = 0) -> None:
        """Count `count` (at least 1) and `weight` (at least 0) of `subject`, now."""
        total = self._totals.get(subject)
        if total is None:
            subject = self._admit(subject, count)
            total = self._totals.get(subject, 0)
        added = count | weight << _SHIFT
        total += added
        self._totals[subject] = total
        self._filling[subject] = self._filling.get(subject, 0) + added
        if (total & _FIRST) >= self._count_at or (total >> _SHIFT) >= self._weight_at:
            self._note(subject, total)

    def expire(self, now: float) -> None:
        """Move the window on to `now`."""
        number = now // self._step
        if number > self._number:
            if self._filling:
                self._past.append((self._number, self._filling))
            self._filling, self._number = {}, number
            self.next_at = (number + 1) * self._step
            if self._past and self._past[-1][0] < number - self._slots:
                self._past.clear()  # all of it was so long ago that none needs subtracting
                self._totals = {}
        self.drain()

    def drain(self) -> None:
        """Subtract the next subjects of what has left the window."""
        left = _STRIDE
        while left and self._past and self._past[0][0] < self._number - self._slots:
            slot = self._past[0][1]
            steps = min(left, len(slot))
            for _ in range(steps):
                self._subtract(*slot.popitem())
            left -= steps
            if not slot:
                self._past.popleft()

    def set_levels(self, *, count: float = _NEVER, weight: float = _NEVER) -> None:
        """Let those be hot that reach `count` or `weight`; this looks at every subject once."""
        self._count_at, self._weight_at = count, weight
        peaks = {subject: (count, weight) for subject, count, weight in self.maxima()}
        hot: dict[Subject, tuple[int, int]] = {}
        if count < _NEVER or weight < _NEVER:
            for subject, total in self._totals.items():
                if (total & _FIRST) >= count or (total >> _SHIFT) >= weight:
                    hot[subject] = total & _FIRST, total >> _SHIFT
        self._hot = hot | {
            subject: peak
            for subject, peak in peaks.items()
            if self._is_high(*peak) or self._stays_hot(subject)
        }

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Restore the levels after the body, which may set others but must not count."""
        before = self._count_at, self._weight_at, self._hot
        try:
            yield
        finally:
            self._count_at, self._weight_at, self._hot = before

    def begin_evaluation(self, hot: Hot[Subject] | None = None) -> None:
        """Forget the peaks, and who is hot no longer.

        Args:
            hot: What `next_hot` returned, if nothing was counted since; None looks now.
        """
        self._hot = finish(self.next_hot()) if hot is None else hot

    def next_hot(self) -> Steps[Hot[Subject]]:
        """Return the subjects that stay hot, in bounded steps."""
        hot: Hot[Subject] = {}
        if not self._hot:
            return hot
        for batch in batches(self._hot, _STRIDE):
            hot |= dict.fromkeys(filter(self._stays_hot, batch), (0, 0))
            if len(batch) == _STRIDE:
                yield
        return hot

    def get(self, subject: Subject) -> tuple[int, int]:
        """Count and weight of `subject` in the window."""
        total = self._totals.get(subject, 0)
        return total & _FIRST, total >> _SHIFT

    def __len__(self) -> int:
        return len(self._totals)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._totals)

    def items(self) -> Iterator[Counted[Subject]]:
        """Every subject, with its count and weight in the window."""
        for subject, total in self._totals.items():
            yield subject, total & _FIRST, total >> _SHIFT

    def maxima(self) -> Iterator[Counted[Subject]]:
        """Every hot subject, with the highest that it reached since the round began.

        What it had when the round began was seen by the round before; only what was added since
        can be a new peak. It is never less than what is counted now.
        """
        for subject, peak in self._hot.items():
            count, weight = self.get(subject)
            yield subject, max(peak[0], count), max(peak[1], weight)

    def candidates(self) -> Iterator[Counted[Subject]]:
        """Every hot subject, with its count and weight in the window as they are now."""
        for subject in self._hot:
            yield subject, *self.get(subject)

    def _admit(self, subject: Subject, count: int) -> Subject:
        if len(self._totals) - (self._overflow in self._totals) < self._most:
            return subject
        self.overflowed += count
        return self._overflow

    def _subtract(self, subject: Subject, counted: int) -> None:
        total = self._totals[subject] - counted
        if total:
            self._totals[subject] = total
        else:
            del self._totals[subject]

    def _note(self, subject: Subject, total: int) -> None:
        count, weight = total & _FIRST, total >> _SHIFT
        peak = self._hot.get(subject)
        if peak is not None:
            self._hot[subject] = max(peak[0], count), max(peak[1], weight)
            return
        if len(self._hot) > 2 * self._most:  # at most half of these are hot still
            hot = {each: top for each, top in self._hot.items() if self._stays_hot(each)}
            self.overflowed += len(self._hot) - len(hot)
            self._hot = hot
        self._hot[subject] = count, weight

    def _is_high(self, count: int, weight: int) -> bool:
        return count >= self._count_at or weight >= self._weight_at

    def _stays_hot(self, subject: Subject) -> bool:
        return self._is_high(*self.get(subject))


class ErrorWindow(RollingWindow[Subject]):
    """Requests of each subject, and as their weight the failures among them.

    Who is hot stays so until it has no failures: while they become fewer, its share may not.
    """

    def failing(self) -> Iterator[Counted[Subject]]:
        """Every subject that has failed in the window: its name, requests and failures.

        This looks at every subject there is.
        """
        for subject, requests, failures in self.items():
            if failures:
                yield subject, requests, failures

    def _stays_hot(self, subject: Subject) -> bool:
        return self._totals.get(subject, 0) > _FIRST  # it has failures


class EvaluationCounter:
    """How often something happened to each subject since the last round.

    Args:
        max_subjects: Subjects that are told apart; the others are counted as `__overflow__`.

    Attributes:
        overflowed: Events that were counted as `__overflow__`, in all rounds.
    """

    def __init__(self, *, max_subjects: int) -> None:
        self.overflowed = 0
        self._most = max_subjects
        self._counts: dict[str, int] = {}

    def add(self, subject: str, times: int = 1) -> None:
        """Count `times` events of `subject`."""
        if subject not in self._counts and len(self._counts) >= self._most:
            subject = OVERFLOW
            self.overflowed += times
        self._counts[subject] = self._counts.get(subject, 0) + times

    def items(self) -> Iterator[tuple[str, int]]:
        """Every subject with its count."""
        yield from self._counts.items()

    def clear(self) -> None:
        """Begin a new round."""
        self._counts.clear()
