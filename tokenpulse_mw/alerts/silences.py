"""Silences: periods in which matching alerts are not reported to the sinks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from .lifecycle import NAMES, Finding, labels_of
from .steps import Steps, finish
from .store.records import Matcher, Silence

_MAX_SILENCES = 1000


_MAX_MATCHERS = 20


_MOST_NUMBERS = 2 * _MAX_SILENCES  # after as many changes all silences are numbered again


_MOST_VERDICTS = 50_000  # label sets


_BUDGET = 100_000  # steps of matching between two yields: see `Bounded.work`


_TEXT_WORK = 100  # of a comparison without a pattern, with all that surrounds it


_Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Test:
    """One matcher, compiled.

    Attributes:
        place: Of its label among `NAMES`.
        value: Text that the label is compared with, or None.
        pattern: Pattern that must match the whole label, or None.
        expected: The result that the matcher requires.
    """

    place: int
    value: str | None
    pattern: Bounded | None
    expected: bool

    def work(self, labels: _Labels) -> int:
        """Return how many steps a comparison takes at most."""
        return _TEXT_WORK + (self.pattern.work(len(labels[self.place])) if self.pattern else 0)

    def accepts(self, labels: _Labels) -> bool:
        """Return True if the matcher matches."""
        label = labels[self.place]
        if self.pattern is None:
            return (label == self.value) == self.expected
        return self.pattern.matches(label) == self.expected


@dataclass(frozen=True, slots=True)
class _Entry:
    """A silence, compiled.

    Attributes:
        silence: As created.
        number: Its place in the order of creation, and its bit in a `_Verdict`.
        tests: One per matcher, patterns last.
        required: The label, by its place, and the value that it must have; None if the silence
            requires no single value.
    """

    silence: Silence
    number: int
    tests: tuple[_Test, ...]
    required: tuple[int, str] | None


@dataclass(slots=True)
class _Verdict:
    """The silences that match one label set.

    Attributes:
        known: Number of the first silence that was not compared yet.
        matched: One bit for each silence that matches.
    """

    known: int = 0
    matched: int = 0


@dataclass(slots=True)
class _Table:
    """Silences by their numbers, and by the label value that they require."""

    entries: dict[int, _Entry] = field(default_factory=dict)
    index: dict[tuple[int, str] | None, dict[int, _Entry]] = field(default_factory=dict)
    verdicts: dict[_Labels, _Verdict] = field(default_factory=dict)
    next: int = 0
    at: float | None = None  # when `mask` was made
    mask: int = 0

    def add(self, silence: Silence, tests: Iterable[_Test]) -> int:
        """Add a silence and return its number."""
        required = next(
            (
                (each.place, each.value)
                for each in tests
                if each.value is not None and each.expected
            ),
            None,
        )
        ordered = tuple(sorted(tests, key=lambda each: each.pattern is not None))
        entry = _Entry(silence, self.next, ordered, required)
        self.entries[entry.number] = entry
        self.index.setdefault(required, {})[entry.number] = entry
        self.next += 1
        self.at = None
        return entry.number

    def remove(self, number: int) -> None:
        """Remove a silence."""
        entry = self.entries.pop(number)
        self.at = None
        del self.index[entry.required][number]
        if not self.index[entry.required]:
            del self.index[entry.required]

    def active(self, at: float) -> int:
        """Return the bits of the silences in force at `at`; an evaluation has one `at`."""
        if self.at != at:
            self.at, self.mask = at, 0
            for number, entry in self.entries.items():
                if entry.silence.starts_at <= at < entry.silence.ends_at:
                    self.mask |= 1 << number
        return self.mask

    def verdict(self, labels: _Labels) -> _Verdict:
        """Return what is known of a label set."""
        verdict = self.verdicts.get(labels)
        if verdict is None:
            if len(self.verdicts) >= _MOST_VERDICTS:
                del self.verdicts[next(iter(self.verdicts))]
            verdict = self.verdicts[labels] = _Verdict()
        return verdict

    def candidates(self, labels: _Labels, known: int) -> list[_Entry]:
        """Return the silences from the number `known` on whose required value is there."""
        keys: list[tuple[int, str] | None] = [None, *enumerate(labels)]
        found = list[_Entry]()
        for key in keys:
            newest_first = reversed(self.index.get(key, {}).values())
            found += takewhile(lambda each: each.number >= known, newest_first)
        return found


class Silences:
    """At most 1,000 silences that have not ended.

    A label set is compared with each silence at most once: the results are kept, as one bit per
    silence, for the newest 50,000 label sets. A silence that requires one value of a label is
    compared only with the label sets that have it.

    Attributes:
        compared: Comparisons of a label set with a silence, for tests.
    """

    def __init__(self) -> None:
        self.compared = 0
        self._work = 0  # since the last yield, for whatever label set
        self._table = _Table()
        self._numbers: dict[str, int] = {}  # by id

    def __iter__(self) -> Iterator[Silence]:
        return iter([each.silence for each in self._table.entries.values()])

    def add(self, silence: Silence) -> None:
        """Add a silence, in place of one of the same id.

        Raises:
            ValueError: A matcher can never match.
        """
        tests = check_matchers(silence.matchers)
        self.remove(silence.id)
        if self._table.next >= _MOST_NUMBERS:
            self._renumber()
        self._numbers[silence.id] = self._table.add(silence, tests)

    def check_room(self) -> None:
        """Reject one silence more than 1,000.

        Raises:
            ValueError: There are as many.
        """
        if len(self._numbers) >= _MAX_SILENCES:
            raise ValueError(
                f"there are {_MAX_SILENCES} silences: remove one, or silence more by each"
            )

    def remove(self, silence_id: str) -> None:
        """Remove a silence, if it exists."""
        number = self._numbers.pop(silence_id, None)
        if number is not None:
            self._table.remove(number)

    def expire(self, at: float) -> None:
        """Remove the silences that have ended at `at`."""
        for silence in self:
            if silence.ends_at <= at:
                self.remove(silence.id)

    def covers(self, finding: Finding, at: float) -> str | None:
        """Return the id of a silence that matches an alert at `at`, or None."""
        return finish(self.covering(finding, at))

    def covering(self, finding: Finding, at: float) -> Steps[str | None]:
        """Find the same in bounded steps."""
        table = self._table
        if not table.entries:
            return None
        labels = tuple(labels_of(finding, finding.severity).values())
        verdict = table.verdict(labels)
        if verdict.known < table.next:
            yield from self._compare(table, labels, verdict)
        matched = verdict.matched & table.active(at)
        if not matched:
            return None
        first = (matched & -matched).bit_length() - 1
        return table.entries[first].silence.id

    def covered(self, finding: Finding, at: float) -> Steps[bool]:
        """Return True if a silence matches an alert at `at`."""
        return (yield from self.covering(finding, at)) is not None

    def _compare(self, table: _Table, labels: _Labels, verdict: _Verdict) -> Steps[None]:
        """Compare a label set with the silences that it was not compared with yet."""
        known = table.next
        for entry in table.candidates(labels, verdict.known):
            self.compared += 1
            for test in entry.tests:
                self._work += test.work(labels)
                if self._work > _BUDGET:
                    self._work = 0
                    yield
                if not test.accepts(labels):
                    break
            else:
                verdict.matched |= 1 << entry.number
        verdict.known = max(verdict.known, known)

    def _renumber(self) -> None:
        silences = [(each.silence, each.tests) for each in self._table.entries.values()]
        self._table = _Table()
        self._numbers = {silence.id: self._table.add(silence, tests) for silence, tests in silences}


def check_matchers(matchers: Iterable[Matcher]) -> tuple[_Test, ...]:
    """Compile the matchers of a silence.

    Patterns must match the whole value, which clients may have chosen: see `bounded`.

    Raises:
        ValueError: There are none or too many, or one has an unknown name or an invalid pattern.
    """
    tests = tuple(map(_test_of, matchers))
    if not 1 <= len(tests) <= _MAX_MATCHERS:
        raise ValueError(f"a silence must have 1 to {_MAX_MATCHERS} matchers, got {len(tests)}")
    return tests


def _test_of(matcher: Matcher) -> _Test:
    if matcher.name not in NAMES:
        raise ValueError(
            f"the name of a matcher must be one of {', '.join(NAMES)}, got {matcher.name!r}"
        )
    place = NAMES.index(matcher.name)
    if matcher.is_regex:
        return _Test(place, None, Bounded(matcher.value), matcher.is_equal)
    return _Test(place, matcher.value, None, matcher.is_equal)


MAX_PATTERN_CHARS = 200  # characters of a pattern, and of what is matched with it


_MAX_REPEATS = 2


_LONGEST_WITH_SEVERAL = 64  # characters of a pattern with more than one repeat


_MAX_ALTERNATIVES = 10


_TOKEN = re.compile(r"\\.|\(\?:|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)


_REPEAT = re.compile(r"[*+?]|\{.*\}")


_NESTED_SET = re.compile(r".\[|--|&&|\|\||~~")  # what Python may read as one, some day


def compile_pattern(text: str) -> re.Pattern[str]:
    """A pattern that must match the whole of a text of at most 200 characters.

    Each repeat and each choice multiplies the ways in which a text can be matched, by 200 and by
    the number of choices, and in each way as much is looked at as the pattern is long. So there
    may be two repeats (`*`, `+`, `?`, `{}`) in a pattern of 64 characters, none of them of a group
    or of another; or one repeat, and one group with at most 10 choices (`|`), none of them empty.
    Outside of groups choices do not multiply. Of what begins with `(?` only `(?:` is known, and
    nothing refers back. The slowest take a few milliseconds.

    Raises:
        ValueError: `text` is another, or no regular expression at all.
    """
    tokens = _TOKEN.findall(text)
    repeats = [number for number, token in enumerate(tokens) if _REPEAT.fullmatch(token)]
    choices = _choices(tokens)
    odd = len(text) > MAX_PATTERN_CHARS or len(repeats) > _MAX_REPEATS or len(choices) > 1
    odd |= len(repeats) > 1 and (len(text) > _LONGEST_WITH_SEVERAL or bool(choices))
    odd |= max(choices, default=0) > _MAX_ALTERNATIVES
    for number in repeats:
        odd |= number > 0 and (tokens[number - 1] in ("(", ")") or number - 1 in repeats)
    for token in tokens:
        odd |= (token[0] == "\\" and token[1:].isdigit()) or (
            token[0] == "[" and _NESTED_SET.search(token) is not None
        )
    if odd:
        raise ValueError(
            f"a pattern must have at most {MAX_PATTERN_CHARS} characters and one repeat, or "
            f"{_LONGEST_WITH_SEVERAL} and {_MAX_REPEATS}, none of them of a group; with one "
            f"repeat at most, one group may have up to {_MAX_ALTERNATIVES} choices, none of them "
            f"empty; got {text[:100]!r}: write one silence for each case"
        )
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"a pattern must be a regular expression, got {text[:100]!r}: {error}"
        ) from None


class Bounded:
    """A pattern as `bounded` returns it, and how much work a match is.

    Raises:
        ValueError: See `bounded`.
    """

    __slots__ = ("_fullmatch", "_repeats", "_weight")

    def __init__(self, text: str) -> None:
        self._fullmatch = compile_pattern(text).fullmatch
        tokens = _TOKEN.findall(text)
        self._repeats = sum(_REPEAT.fullmatch(token) is not None for token in tokens)
        self._weight = max(len(text), 1) * max(_choices(tokens), default=1)

    def matches(self, text: str) -> bool:
        """Return True if the pattern matches the whole of the first 200 characters."""
        return self._fullmatch(text[:MAX_PATTERN_CHARS]) is not None

    def work(self, length: int) -> int:
        """Return the most steps that a match of a text of this length takes."""
        return int((min(length, MAX_PATTERN_CHARS) + 1) ** self._repeats * self._weight)


def _choices(tokens: list[str]) -> list[int]:
    """How many choices each group has that has several; empty ones are too many."""
    open_groups: list[int] = []
    found: list[int] = []
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token in ("(", "(?:"):
            open_groups.append(1)
        elif token == ")" and open_groups:
            found.append(open_groups.pop())
        elif token == "|" and open_groups:
            empty = before in ("(", "(?:", "|") or after in ("|", ")")
            open_groups[-1] += _MAX_ALTERNATIVES if empty else 1
    return [choices for choices in found if choices > 1]
