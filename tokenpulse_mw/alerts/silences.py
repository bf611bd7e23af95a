"""Silences: periods in which matching alerts are not reported to the sinks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from ..validation import check_choice
from .lifecycle import NAMES, Finding, labels_of
from .steps import Steps, finish
from .store.records import Matcher, Silence

logger = logging.getLogger("tokenpulse_mw.alerts")

_MAX_SILENCES = 1000


_MAX_MATCHERS = 20


_MAX_NUMBERS = 2 * _MAX_SILENCES  # then all silences are numbered again, to keep masks short


_MAX_LABEL_SETS = 50_000


_BUDGET = 100_000  # steps of matching between two yields: see `BoundedPattern.work`


_TEXT_WORK = 100  # steps of a comparison without a pattern, overhead included


_Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _CompiledMatcher:
    """A compiled matcher.

    Attributes:
        position: Position of its label in `NAMES`.
        value: Text that the label is compared with, or None.
        pattern: Pattern that must match the whole label, or None.
        expected: The required result of the comparison.
    """

    position: int
    value: str | None
    pattern: BoundedPattern | None
    expected: bool

    def work(self, labels: _Labels) -> int:
        """Return the maximum number of steps of a comparison."""
        length = len(labels[self.position])
        return _TEXT_WORK + (self.pattern.work(length) if self.pattern else 0)

    def matches(self, labels: _Labels) -> bool:
        """Return True if the matcher matches."""
        label = labels[self.position]
        if self.pattern is None:
            return (label == self.value) == self.expected
        return self.pattern.matches(label) == self.expected


@dataclass(frozen=True, slots=True)
class _Entry:
    """A compiled silence.

    Attributes:
        silence: The silence.
        number: Position in the order of creation, and its bit in a mask.
        matchers: Compiled matchers, patterns last.
        required: Position and value of a label that must be equal, or None.
    """

    silence: Silence
    number: int
    matchers: tuple[_CompiledMatcher, ...]
    required: tuple[int, str] | None


@dataclass(slots=True)
class _Matches:
    """The silences that match one label set.

    Attributes:
        next_number: Number of the first silence that was not compared.
        mask: One bit for each silence that matches.
    """

    next_number: int = 0
    mask: int = 0


@dataclass(slots=True)
class _Table:
    """Silences by their numbers, and by the label value that they require."""

    entries: dict[int, _Entry] = field(default_factory=dict)
    index: dict[tuple[int, str] | None, dict[int, _Entry]] = field(default_factory=dict)
    matches: dict[_Labels, _Matches] = field(default_factory=dict)
    next_number: int = 0
    mask_at: float | None = None  # time of `mask`
    mask: int = 0

    def add(self, silence: Silence, matchers: Iterable[_CompiledMatcher]) -> int:
        """Add a silence and return its number."""
        ordered = tuple(sorted(matchers, key=lambda matcher: matcher.pattern is not None))
        required = next(
            (
                (matcher.position, matcher.value)
                for matcher in ordered
                if matcher.value is not None and matcher.expected
            ),
            None,
        )
        entry = _Entry(silence, self.next_number, ordered, required)
        self.entries[entry.number] = entry
        self.index.setdefault(required, {})[entry.number] = entry
        self.next_number += 1
        self.mask_at = None
        return entry.number

    def remove(self, number: int) -> None:
        """Remove a silence."""
        entry = self.entries.pop(number)
        self.mask_at = None
        del self.index[entry.required][number]
        if not self.index[entry.required]:
            del self.index[entry.required]

    def active(self, at: float) -> int:
        """Return the mask of the silences that are active at `at`; an evaluation has one `at`."""
        if self.mask_at != at:
            self.mask_at, self.mask = at, 0
            for number, entry in self.entries.items():
                if entry.silence.starts_at <= at < entry.silence.ends_at:
                    self.mask |= 1 << number
        return self.mask

    def matches_of(self, labels: _Labels) -> _Matches:
        """Return the known matches of a label set."""
        matches = self.matches.get(labels)
        if matches is None:
            if len(self.matches) >= _MAX_LABEL_SETS:
                del self.matches[next(iter(self.matches))]
            matches = self.matches[labels] = _Matches()
        return matches

    def candidates(self, labels: _Labels, start: int) -> list[_Entry]:
        """Return the silences from number `start` on whose required value is in `labels`."""
        keys: list[tuple[int, str] | None] = [None, *enumerate(labels)]
        candidates = list[_Entry]()
        for key in keys:
            newest_first = reversed(self.index.get(key, {}).values())
            candidates += takewhile(lambda entry: entry.number >= start, newest_first)
        return candidates


class Silences:
    """At most 1,000 silences that have not ended.

    A label set is compared with each silence at most once: one bit per silence is stored for each
    of the newest 50,000 label sets. A silence that requires a value of a label is compared only
    with the label sets that have it.

    Attributes:
        compared: Number of comparisons of a label set with a silence, for tests.
    """

    def __init__(self) -> None:
        self.compared = 0
        self._work = 0  # since the last yield, for any label sets
        self._table = _Table()
        self._numbers: dict[str, int] = {}  # by id
        self._invalid = set[str]()  # ids that were logged

    def __iter__(self) -> Iterator[Silence]:
        return iter([entry.silence for entry in self._table.entries.values()])

    def add(self, silence: Silence) -> None:
        """Add a silence, or replace the one with the same id.

        Raises:
            ValueError: See `check_matchers`.
        """
        matchers = check_matchers(silence.matchers)
        self.remove(silence.id)
        if self._table.next_number >= _MAX_NUMBERS:
            self._renumber()
        self._numbers[silence.id] = self._table.add(silence, matchers)

    def replace(self, silences: Iterable[Silence]) -> None:
        """Have exactly these silences; log and leave out those that are invalid."""
        new = {silence.id: silence for silence in silences}
        for silence in self:
            if new.get(silence.id) == silence:
                del new[silence.id]
            else:
                self.remove(silence.id)
        logged, self._invalid = self._invalid, set()
        for silence in new.values():
            try:
                self.add(silence)
            except ValueError as error:
                self._invalid.add(silence.id)
                if silence.id not in logged:
                    logger.error(
                        "stored silence is invalid: silence=%s error=%s", silence.id, error
                    )

    def check_capacity(self) -> None:
        """Check that another silence may be created.

        Raises:
            ValueError: There are 1,000 silences already.
        """
        if len(self._numbers) >= _MAX_SILENCES:
            raise ValueError(
                f"silences must be at most {_MAX_SILENCES}: remove one, or create silences "
                "that match more alerts"
            )

    def remove(self, silence_id: str) -> None:
        """Remove a silence, if it exists."""
        number = self._numbers.pop(silence_id, None)
        if number is not None:
            self._table.remove(number)

    def expire(self, at: float) -> None:
        """Remove the silences that have ended by `at`."""
        for silence in self:
            if silence.ends_at <= at:
                self.remove(silence.id)

    def covers(self, finding: Finding, at: float) -> str | None:
        """Return the id of a silence that matches an alert at `at`, or None."""
        return finish(self.find(finding, at))

    def find(self, finding: Finding, at: float) -> Steps[str | None]:
        """Return the same as `covers`, in bounded steps."""
        table = self._table
        if not table.entries:
            return None
        labels = tuple(labels_of(finding, finding.severity).values())
        matches = table.matches_of(labels)
        if matches.next_number < table.next_number:
            yield from self._compare(table, labels, matches)
        active = matches.mask & table.active(at)
        if not active:
            return None
        first = (active & -active).bit_length() - 1
        return table.entries[first].silence.id

    def is_silenced(self, finding: Finding, at: float) -> Steps[bool]:
        """Return True if a silence matches an alert at `at`."""
        return (yield from self.find(finding, at)) is not None

    def _compare(self, table: _Table, labels: _Labels, matches: _Matches) -> Steps[None]:
        """Compare a label set with the silences that it was not compared with."""
        next_number = table.next_number
        for entry in table.candidates(labels, matches.next_number):
            self.compared += 1
            for matcher in entry.matchers:
                self._work += matcher.work(labels)
                if self._work > _BUDGET:
                    self._work = 0
                    yield
                if not matcher.matches(labels):
                    break
            else:
                matches.mask |= 1 << entry.number
        matches.next_number = max(matches.next_number, next_number)

    def _renumber(self) -> None:
        entries = list(self._table.entries.values())
        self._table = _Table()
        self._numbers = {
            entry.silence.id: self._table.add(entry.silence, entry.matchers) for entry in entries
        }


def check_matchers(matchers: Iterable[Matcher]) -> tuple[_CompiledMatcher, ...]:
    """Compile the matchers of a silence.

    Patterns must match the whole value. Clients may choose values, so patterns are bounded: see
    `compile_pattern`.

    Raises:
        ValueError: There are none or too many, or a matcher has an unknown name or an invalid
            pattern.
    """
    compiled = tuple(map(_compile, matchers))
    if not 1 <= len(compiled) <= _MAX_MATCHERS:
        raise ValueError(f"a silence must have 1 to {_MAX_MATCHERS} matchers, got {len(compiled)}")
    return compiled


def _compile(matcher: Matcher) -> _CompiledMatcher:
    check_choice("name of a matcher", matcher.name, NAMES)
    position = NAMES.index(matcher.name)
    if matcher.is_regex:
        return _CompiledMatcher(position, None, BoundedPattern(matcher.value), matcher.is_equal)
    return _CompiledMatcher(position, matcher.value, None, matcher.is_equal)


MAX_PATTERN_CHARS = 200  # of a pattern, and of the text that it is matched with


_MAX_REPEATS = 2


_MAX_CHARS_WITH_TWO_REPEATS = 64


_MAX_ALTERNATIVES = 10


_TOKEN = re.compile(r"\\.|\(\?:|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)


_REPEAT = re.compile(r"[*+?]|\{.*\}")


_NESTED_SET = re.compile(r".\[|--|&&|\|\||~~")  # a future Python may read it as a nested set


def compile_pattern(text: str) -> re.Pattern[str]:
    """Return a pattern whose match with a text of at most 200 characters takes milliseconds.

    Each repeat multiplies the ways to match a text by 200, each choice in a group by the number
    of choices, and each way takes as many steps as the pattern is long. A pattern may therefore
    have

    - two repeats (`*`, `+`, `?`, `{}`) in 64 characters,
    - or one repeat, and one group with at most 10 choices (`|`), none of them empty.

    A repeat must not apply to a group or to another repeat. Choices outside of groups do not
    multiply and are not limited. `(?:` is the only extension that is allowed. Back references are
    not allowed.

    Raises:
        ValueError: `text` exceeds these limits, or is not a regular expression.
    """
    tokens = _TOKEN.findall(text)
    repeats = [number for number, token in enumerate(tokens) if _REPEAT.fullmatch(token)]
    choices = _choices(tokens)
    invalid = len(text) > MAX_PATTERN_CHARS or len(repeats) > _MAX_REPEATS or len(choices) > 1
    invalid |= len(repeats) > 1 and (len(text) > _MAX_CHARS_WITH_TWO_REPEATS or bool(choices))
    invalid |= max(choices, default=0) > _MAX_ALTERNATIVES
    for number in repeats:
        invalid |= number > 0 and (tokens[number - 1] in ("(", ")") or number - 1 in repeats)
    for token in tokens:
        invalid |= (token[0] == "\\" and token[1:].isdigit()) or (
            token[0] == "[" and _NESTED_SET.search(token) is not None
        )
    if invalid:
        raise ValueError(
            f"a pattern must have at most {MAX_PATTERN_CHARS} characters with one repeat, or "
            f"{_MAX_CHARS_WITH_TWO_REPEATS} characters with {_MAX_REPEATS} repeats, and no repeat "
            f"of a group; with at most one repeat, one group may have up to {_MAX_ALTERNATIVES} "
            f"choices, none of them empty; got {text[:100]!r}: create one silence for each case"
        )
    try:
        return re.compile(text, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"a pattern must be a regular expression, got {text[:100]!r}: {error}"
        ) from None


class BoundedPattern:
    """Pattern with a known maximum of work for a match.

    Raises:
        ValueError: See `compile_pattern`.
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
        """Return the maximum number of steps of a match with a text of this length."""
        return int((min(length, MAX_PATTERN_CHARS) + 1) ** self._repeats * self._weight)


def _choices(tokens: list[str]) -> list[int]:
    """Return the number of choices of each group with several; an empty one exceeds the limit."""
    open_groups: list[int] = []
    closed_groups: list[int] = []
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token in ("(", "(?:"):
            open_groups.append(1)
        elif token == ")" and open_groups:
            closed_groups.append(open_groups.pop())
        elif token == "|" and open_groups:
            empty = before in ("(", "(?:", "|") or after in ("|", ")")
            open_groups[-1] += _MAX_ALTERNATIVES if empty else 1
    return [choices for choices in closed_groups if choices > 1]
