"""Outcomes and failures in a row by upstream, merged over processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Annotated, Generic, TypeVar

import msgspec

_RECENT = 20  # outcomes of each subject


_ALL_RECENT = (1 << _RECENT) - 1


MAX_TIMES = 64  # of failures of each subject


Subject = TypeVar("Subject", bound=Hashable)
Natural = Annotated[int, msgspec.Meta(ge=0)]


class Outcomes(msgspec.Struct, array_like=True):
    """Successes and failures of an upstream, of one or more processes.

    Merging is commutative: a success ends all failures up to its time, of all processes. Only if
    there are more than 64 failures after the last success, some are no longer known by time. They
    count until a success is later than the 64 newest ones.

    Attributes:
        name: The last known provider; empty if unknown.
        successes: Number of successes.
        ended: Number of failures up to the last success.
        last_success: Time of the last success in microseconds of fleet time; 0 if there is none.
        failed_at: Times of the newest failures after the last success, at most 64.
        more: Number of older failures after the last success.
        group: The last known group of a credential; empty if unknown.
    """

    name: str = ""
    successes: Natural = 0
    ended: Natural = 0
    last_success: Natural = 0
    failed_at: list[Natural] = []
    more: Natural = 0
    group: str = ""

    @property
    def failures(self) -> int:
        """Number of failures since the last success."""
        return len(self.failed_at) + self.more

    def succeed(self, time: int) -> None:
        """End the failures at a success that is later than all known outcomes."""
        self.last_success = time
        if self.failed_at:
            self.ended += self.failures
            self.failed_at.clear()  # in place: the aggregator watches the list
            self.more = 0

    def fail(self, time: int) -> None:
        """Add a failure that is later than all known outcomes."""
        self.failed_at.append(time)
        if len(self.failed_at) > MAX_TIMES:
            del self.failed_at[0]
            self.more += 1

    def move(self, microseconds: int) -> None:
        """Add to all times; they stay in their order and at least 0."""
        if self.last_success:
            self.last_success = max(0, self.last_success + microseconds)
        # In place: the aggregator watches the list.
        self.failed_at[:] = [max(0, time + microseconds) for time in self.failed_at]

    def move_before(self, now: float) -> None:
        """Move all times back, if the last outcome is later than `now`, in seconds."""
        latest = max([self.last_success, *self.failed_at[-1:]])
        self.move(min(0, int(now * 1e6) - latest))

    def merge(self, other: Outcomes) -> None:
        """Add the outcomes of `other`."""
        self.name = max(self.name, other.name)
        self.group = max(self.group, other.group)
        self.successes += other.successes
        self.last_success = last = max(self.last_success, other.last_success)
        failures = self.failures + other.failures
        more = sum(part.more for part in (self, other) if min(part.failed_at, default=0) > last)
        times = sorted(time for time in self.failed_at + other.failed_at if time > last)
        self.failed_at = times[-MAX_TIMES:]
        self.more = more + len(times) - len(self.failed_at)
        self.ended += other.ended + failures - self.failures


class Streak(Outcomes, array_like=True):
    """Failures in a row and recent outcomes of a subject.

    Attributes:
        history: The last outcomes before the failures in a row, one bit for each, the newest
            lowest; 1 for a failure.
        known: Number of outcomes in `history`, at most 20.
    """

    history: Natural = 0
    known: Natural = 0

    @property
    def recent_failures(self) -> int:
        """Number of failures among the recent outcomes."""
        before = _RECENT - min(self.failures, _RECENT)
        return _RECENT - before + (self.history & ((1 << before) - 1)).bit_count()

    @property
    def recent_outcomes(self) -> int:
        """Number of known outcomes, at most 20."""
        return min(self.known + self.failures, _RECENT)

    def recent(self) -> tuple[int, int]:
        """Return failures and outcomes, of the last 20 outcomes or since the last success."""
        if self.failures > self.recent_outcomes:
            return self.failures, self.failures
        return self.recent_failures, self.recent_outcomes

    def merge(self, other: Outcomes) -> None:
        """Add outcomes; the failures in a row are the newest of all."""
        name, group = other.name or self.name, other.group or self.group
        super().merge(other)
        ended = min(self.ended, _RECENT)
        successes = min(self.successes, _RECENT)
        history = (self.history << ended | (1 << ended) - 1) << successes
        self.history = history & _ALL_RECENT
        self.known = min(self.known + ended + successes, _RECENT)
        self.name, self.group = name, group
        self.ended = self.successes = 0


class Streaks(Generic[Subject]):
    """Streaks by subject; beyond `max_subjects` the least recently used one is evicted.

    Attributes:
        evicted: Number of evicted subjects.
    """

    def __init__(self, *, max_subjects: int) -> None:
        self.evicted = 0
        self._max_subjects = max_subjects
        self._streaks: OrderedDict[Subject, Streak] = OrderedDict()
        self._failing: dict[Subject, Streak] = {}

    def add(self, subject: Subject, outcomes: Outcomes) -> None:
        """Add outcomes of `subject` to its streak, and mark it as used."""
        streak = self._streaks.get(subject)
        if streak is None:
            streak = Streak()
            self.restore(subject, streak)
        self._streaks.move_to_end(subject)
        streak.merge(outcomes)
        self._note(subject, streak)

    def restore(self, subject: Subject, streak: Streak) -> None:
        """Replace the streak of `subject`."""
        if subject not in self._streaks and len(self._streaks) >= self._max_subjects:
            self._failing.pop(self._streaks.popitem(last=False)[0], None)
            self.evicted += 1
        self._streaks[subject] = streak
        self._note(subject, streak)

    def get(self, subject: Subject) -> Streak | None:
        """Return the streak of `subject`, or None."""
        return self._streaks.get(subject)

    def items(self) -> Iterator[tuple[Subject, Streak]]:
        """Yield each subject and its streak, the least recently used first."""
        yield from self._streaks.items()

    def recent(self) -> Iterator[tuple[Subject, Streak]]:
        """Yield each subject and its streak, the most recently used first."""
        yield from reversed(self._streaks.items())

    def failing(self) -> Iterator[tuple[Subject, Streak]]:
        """Yield each subject whose last outcome is a failure."""
        yield from self._failing.items()

    def _note(self, subject: Subject, streak: Streak) -> None:
        if streak.failures:
            self._failing[subject] = streak
        else:
            self._failing.pop(subject, None)
