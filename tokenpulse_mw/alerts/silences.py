"""Silences: what is told to nobody, for a time, because somebody knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .labels import NAMES, labels_of
from .lifecycle import Finding
from .patterns import LONGEST, bounded
from .store.records import Matcher, Silence

_MOST = 1000
_MOST_MATCHERS = 20

_Test = Callable[[dict[str, str]], bool]


class Silences:
    """Silences that have not ended; at most 1,000."""

    def __init__(self) -> None:
        self._silences: dict[str, tuple[Silence, list[_Test]]] = {}

    def __iter__(self) -> Iterator[Silence]:
        return iter([silence for silence, _ in self._silences.values()])

    def add(self, silence: Silence) -> None:
        """Heed a silence, in place of one of the same id.

        Raises:
            ValueError: A matcher is none that could ever match.
        """
        tests = check_matchers(silence.matchers)
        self._silences[silence.id] = silence, tests

    def check_room(self) -> None:
        """Refuse one more than 1,000.

        Raises:
            ValueError: There are as many.
        """
        if len(self._silences) >= _MOST:
            raise ValueError(f"there are {_MOST} silences: remove one, or silence more by each")

    def remove(self, silence_id: str) -> None:
        """Do not heed a silence any more."""
        self._silences.pop(silence_id, None)

    def expire(self, at: float) -> None:
        """Forget those that have ended at `at`."""
        for silence in [each for each, _ in self._silences.values() if each.ends_at <= at]:
            self.remove(silence.id)

    def covers(self, finding: Finding, at: float) -> str | None:
        """The id of a silence that an alert falls under at `at`, or None."""
        for silence, tests in self._silences.values():
            if silence.starts_at <= at < silence.ends_at:
                labels = labels_of(finding, finding.severity)
                if all(test(labels) for test in tests):
                    return silence.id
        return None


def check_matchers(matchers: Iterable[Matcher]) -> list[_Test]:
    """What each matcher asks of an alert's labels.

    Patterns must match the whole value, which tenants may have chosen: see `bounded`.

    Raises:
        ValueError: There is none, or too many, or one names no label or has no such pattern.
    """
    tests = [_test_of(matcher) for matcher in matchers]
    if not 1 <= len(tests) <= _MOST_MATCHERS:
        raise ValueError(f"a silence must have 1 to {_MOST_MATCHERS} matchers, got {len(tests)}")
    return tests


def _test_of(matcher: Matcher) -> _Test:
    if matcher.name not in NAMES:
        raise ValueError(
            f"the name of a matcher must be one of {', '.join(NAMES)}, got {matcher.name!r}"
        )
    if matcher.is_regex:
        return partial(_matches, matcher, bounded(matcher.value))
    return lambda labels: (labels[matcher.name] == matcher.value) == matcher.is_equal


def _matches(matcher: Matcher, pattern: re.Pattern[str], labels: dict[str, str]) -> bool:
    found = pattern.fullmatch(labels[matcher.name][:LONGEST]) is not None
    return found == matcher.is_equal
