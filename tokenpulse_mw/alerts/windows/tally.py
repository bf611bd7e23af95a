"""How often something happened to each subject since the last round, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

from .ring import OVERFLOW


class Tally:
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
