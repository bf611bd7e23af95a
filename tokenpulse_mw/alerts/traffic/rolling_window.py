"""Rolling window of two counts by subject, in bounded memory and bounded steps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from ..steps import Steps, batches

OVERFLOW = "__overflow__"


Subject = TypeVar("Subject", bound=Hashable)


SubjectCounts = tuple[Subject, int, int]


# Both counts of a subject are packed into one integer, the first in the 40 lowest bits, so that one
# operation adds or subtracts both. A window never has 2**40 requests; the upper part is unbounded.
SHIFT = 40


FIRST = (1 << SHIFT) - 1


_BATCH = 1000  # subjects of an expired slot subtracted at a time: about 0.2 ms


_FREED = 5000  # subjects that are freed at a time: less than a millisecond


_NEVER = float("inf")


# Highest count and weight of each hot subject since the last evaluation.
Hot = dict[Subject, tuple[int, int]]


class RollingWindow(Generic[Subject]):
    """Count and weight (a second count) of each subject over the last `window` seconds.

    The window consists of slots of `step` seconds and keeps its oldest slot whole: it covers from
    `window` to `window` + one step, so it never misses a part of the window. `expire` and `drain`
    subtract expired slots, at most 1,000 subjects at a time; the rest is still counted until then.

    A subject whose count or weight reaches the level of `set_levels` is hot until
    `begin_evaluation` finds it below the level. Rules read only hot subjects, however many
    subjects there are.

    Args:
        window: Seconds.
        step: Length of a slot in seconds.
        max_subjects: Maximum number of subjects counted separately.
        overflow: Subject that all others are counted as.

    Attributes:
        step: Length of a slot in seconds.
        overflowed: Number of events counted as `overflow`, and of hot subjects that were dropped.
    """

    def __init__(self, *, window: float, step: float, max_subjects: int, overflow: Subject) -> None:
        self.step = step
        self.overflowed = 0
        self._window = window
        self._max_subjects, self._overflow = max_subjects, overflow
        self._slots: dict[int, dict[Subject, int]] = {}
        self._first = 0  # number of the oldest slot
        self._changed: set[int] = set()
        self._unconfirmed: set[int] = set()
        self._totals: dict[Subject, int] = {}  # of all slots
        self._hot: Hot[Subject] = {}
        self._reset: list[dict[Subject, int]] = []  # counts to free
        self._count_at = self._weight_at = _NEVER

    def add_all(self, counts: Mapping[Subject, int], at: float) -> Steps[None]:
        """Add packed counts of the time `at`, unless the window has passed it."""
        number = int(at // self.step)
        if number < self._first or not counts:
            return
        self._changed.add(number)
        slot = self._slots.setdefault(number, {})
        for batch in batches(counts.items(), _BATCH):
            for subject, added in batch:
                self._add(slot, subject, added)
            self.drain()
            if len(batch) == _BATCH:
                yield

    def expire(self, now: float) -> None:
        """Move the window on to `now`; it never moves back."""
        self._first = max(self._first, int((now - self._window) // self.step))
        if self._slots and max(self._slots) < self._first:
            self._reset += [self._totals, *self._slots.values()]
            self._slots, self._totals = {}, {}  # reset without subtracting
        self.drain()

    def drain(self) -> None:
        """Subtract the next subjects of the expired slots, and free the next reset ones."""
        self._free()
        left = _BATCH
        while left and self._slots and (oldest := min(self._slots)) < self._first:
            slot = self._slots[oldest]
            steps = min(left, len(slot))
            for _ in range(steps):
                self._subtract(*slot.popitem())
            left -= steps
            if not slot:
                del self._slots[oldest]

    @property
    def starts_at(self) -> float:
        """Start of the oldest slot that is not expired."""
        return self._first * self.step

    def unstored(self) -> Iterator[tuple[float, dict[Subject, int]]]:
        """Yield the start and the packed counts of each slot changed since `confirm_stored`."""
        self._unconfirmed |= self._changed
        self._changed = set()
        for number in sorted(self._unconfirmed):
            if number >= self._first:
                yield number * self.step, self._slots[number]

    def confirm_stored(self) -> None:
        """Mark the slots of the last `unstored` as stored."""
        self._unconfirmed = set()

    @property
    def hot(self) -> dict[Subject, int]:
        """Packed maxima of the hot subjects since the last evaluation."""
        return {subject: count | weight << SHIFT for subject, (count, weight) in self._hot.items()}

    def restore_hot(self, hot: Mapping[Subject, int]) -> None:
        """Complete the restoration of stored slots with stored maxima."""
        self._changed = set()
        self._hot = {
            subject: (0, 0) for subject in self._totals if self._is_high(*self.get(subject))
        } | {subject: (maximum & FIRST, maximum >> SHIFT) for subject, maximum in hot.items()}

    def set_levels(self, *, count: float = _NEVER, weight: float = _NEVER) -> None:
        """Set the levels from which a subject is hot; this reads every subject once."""
        self._count_at, self._weight_at = count, weight
        maxima = {subject: (count, weight) for subject, count, weight in self.maxima()}
        hot: dict[Subject, tuple[int, int]] = {}
        if count < _NEVER or weight < _NEVER:
            for subject, total in self._totals.items():
                if (total & FIRST) >= count or (total >> SHIFT) >= weight:
                    hot[subject] = total & FIRST, total >> SHIFT
        self._hot = hot | {
            subject: maximum
            for subject, maximum in maxima.items()
            if self._is_high(*maximum) or self._stays_hot(subject)
        }

    @contextmanager
    def preserve_levels(self) -> Iterator[None]:
        """Restore the levels after the body, in which nothing may be counted."""
        before = self._count_at, self._weight_at, self._hot
        try:
            yield
        finally:
            self._count_at, self._weight_at, self._hot = before

    def begin_evaluation(self, hot: Hot[Subject]) -> None:
        """Reset the maxima, and drop the subjects that are no longer hot.

        Args:
            hot: Result of `next_hot`; nothing was counted since.
        """
        self._hot = hot

    def next_hot(self) -> Steps[Hot[Subject]]:
        """Return the subjects that stay hot, in bounded steps."""
        hot: Hot[Subject] = {}
        if not self._hot:
            return hot
        for batch in batches(self._hot, _BATCH):
            hot |= dict.fromkeys(filter(self._stays_hot, batch), (0, 0))
            if len(batch) == _BATCH:
                yield
        return hot

    def get(self, subject: Subject) -> tuple[int, int]:
        """Return count and weight of `subject` in the window."""
        total = self._totals.get(subject, 0)
        return total & FIRST, total >> SHIFT

    def __len__(self) -> int:
        return len(self._totals)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._totals)

    def items(self) -> Iterator[SubjectCounts[Subject]]:
        """Yield every subject with its count and weight in the window."""
        for subject, total in self._totals.items():
            yield subject, total & FIRST, total >> SHIFT

    def maxima(self) -> Iterator[SubjectCounts[Subject]]:
        """Yield every hot subject with its highest count and weight since the last evaluation.

        They are at least the current ones. Only additions raise them: the last evaluation has
        already read the counts from before it.
        """
        for subject, maximum in self._hot.items():
            count, weight = self.get(subject)
            yield subject, max(maximum[0], count), max(maximum[1], weight)

    def candidates(self) -> Iterator[SubjectCounts[Subject]]:
        """Yield every hot subject with its current count and weight in the window."""
        for subject in self._hot:
            yield subject, *self.get(subject)

    def _free(self) -> None:
        """Free the next subjects of the counts that were reset: a million at once take 20 ms.

        Each 1,000 added subjects free 5,000, so that these counts cannot pile up.
        """
        left = _FREED
        while left and self._reset:
            counts = self._reset[-1]
            steps = min(left, len(counts))
            for _ in range(steps):
                counts.popitem()
            left -= steps
            if not counts:
                self._reset.pop()

    def _add(self, slot: dict[Subject, int], subject: Subject, added: int) -> None:
        total = self._totals.get(subject)
        if total is None:
            subject = self._admit(subject, added & FIRST)
            total = self._totals.get(subject, 0)
        total += added
        self._totals[subject] = total
        slot[subject] = slot.get(subject, 0) + added
        if (total & FIRST) >= self._count_at or (total >> SHIFT) >= self._weight_at:
            self._update_maximum(subject, total)

    def _admit(self, subject: Subject, count: int) -> Subject:
        if subject == self._overflow:
            return subject
        if len(self._totals) - (self._overflow in self._totals) < self._max_subjects:
            return subject
        self.overflowed += count
        return self._overflow

    def _subtract(self, subject: Subject, counted: int) -> None:
        total = self._totals[subject] - counted
        if total:
            self._totals[subject] = total
        else:
            del self._totals[subject]

    def _update_maximum(self, subject: Subject, total: int) -> None:
        count, weight = total & FIRST, total >> SHIFT
        maximum = self._hot.get(subject)
        if maximum is not None:
            self._hot[subject] = max(maximum[0], count), max(maximum[1], weight)
            return
        if len(self._hot) > 2 * self._max_subjects:  # at most half of these are still hot
            hot = {known: top for known, top in self._hot.items() if self._stays_hot(known)}
            self.overflowed += len(self._hot) - len(hot)
            self._hot = hot
        self._hot[subject] = count, weight

    def _is_high(self, count: int, weight: int) -> bool:
        return count >= self._count_at or weight >= self._weight_at

    def _stays_hot(self, subject: Subject) -> bool:
        return self._is_high(*self.get(subject))


class ErrorWindow(RollingWindow[Subject]):
    """Requests of each subject, with the failures among them as weight.

    A hot subject stays hot until it has no failures: its share may stay high while they expire.
    """

    def failing(self) -> Iterator[SubjectCounts[Subject]]:
        """Yield every subject with failures in the window, its requests and failures.

        This reads every subject.
        """
        for subject, requests, failures in self.items():
            if failures:
                yield subject, requests, failures

    def _stays_hot(self, subject: Subject) -> bool:
        return self._totals.get(subject, 0) > FIRST  # it has failures


class EvaluationCounter:
    """Number of events of each subject since the last evaluation.

    Args:
        max_subjects: Maximum number of subjects counted separately; the others are counted as
            `__overflow__`.

    Attributes:
        overflowed: Total number of events counted as `__overflow__`.
    """

    def __init__(self, *, max_subjects: int) -> None:
        self.overflowed = 0
        self._max_subjects = max_subjects
        self._counts: dict[str, int] = {}

    def add(self, subject: str, times: int = 1) -> None:
        """Add `times` events of `subject`."""
        if subject not in self._counts and len(self._counts) >= self._max_subjects:
            subject = OVERFLOW
            self.overflowed += times
        self._counts[subject] = self._counts.get(subject, 0) + times

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield every subject with its count."""
        yield from self._counts.items()

    def clear(self) -> None:
        """Reset all counts."""
        self._counts.clear()
