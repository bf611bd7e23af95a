"""External source of the rows of a rule, such as quotas, that is called before each evaluation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from heapq import nlargest
from inspect import isawaitable
from itertools import islice
from numbers import Integral, Real
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

import anyio

from ...validation import check_integer, check_seconds, describe
from ..traffic.bucket import ReportKey, Usage

MAX_NUMBER = 1e15

_MAX_REPORTED = 1000  # keys that a process reports
_MIN_REPORTED_SHARE = 0.5
_MAX_FAILURES = 2  # refreshes in a row that may fail before the last rows are too old
_MAX_ROW_CHARS = 200  # characters of an invalid row in an error

# Returns the rows. Plain tuples are accepted, without the last optional values too, with numbers of
# any kind, and identifiers that are integers.
Source = Callable[[], "Iterable[tuple[object, ...]] | Awaitable[Iterable[tuple[object, ...]]]"]


class Kind(NamedTuple):
    """Words of error messages.

    Attributes:
        name: Name of a row, such as "quota".
        expected: Description of a valid row.
        example: Expression that returns valid rows.
    """

    name: str
    expected: str
    example: str


_Row = TypeVar("_Row", bound="tuple[Any, ...]")


class PolledSource(Generic[_Row]):
    """The rows of the last successful calls of a source.

    Args:
        source: A function without arguments, async or not. None: there are no rows.
        parse: Returns a valid row, or raises TypeError, ValueError or ArithmeticError.
        identify: Returns what a row, valid or not, is about; it may raise the same errors.
        kind: Words of error messages.
        timeout: Seconds that an async source may take.
        max_keys: Maximum number of rows.

    Attributes:
        rows: The rows of the last successful refresh.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(
        self,
        source: Source | None,
        parse: Callable[[Any], _Row],
        identify: Callable[[Any], object],
        kind: Kind,
        *,
        timeout: float,
        max_keys: int,
    ) -> None:
        check_seconds("timeout", timeout)
        check_integer("max_keys", max_keys)
        if source is not None and not callable(source):
            raise ValueError(
                f"source must be a function that returns {kind.name}s, such as lambda: "
                f"{kind.example}, got {describe(source)}"
            )
        self.rows: tuple[_Row, ...] = ()
        self._source = source or (lambda: ())
        self._parse, self._identify, self._kind = parse, identify, kind
        self._timeout, self._max_keys = timeout, max_keys
        self._has_rows, self._failures = False, 0

    async def refresh(self) -> None:
        """Call the source; if it fails, keep the last rows.

        Raises:
            TimeoutError: The source took too long.
            ValueError: The source returned too many rows, or an invalid one. Valid rows next to
                it are used; a key with an invalid row keeps its last one.
        """
        self._failures += 1  # reset on success; a cancelled refresh counts as a failure
        valid, invalid, errors = list[_Row](), set[object](), list[ValueError]()
        for row in await self._call():
            try:
                valid.append(self._parsed(row))
            except ValueError as error:
                errors.append(error)
                invalid |= self._identity_of(row)
        if invalid:
            invalid -= {self._identify(row) for row in valid}
        if valid or not errors:
            unchanged = [row for row in self.rows if invalid and self._identify(row) in invalid]
            self.rows = (*valid, *unchanged)
            self._has_rows, self._failures = True, 0
        if errors:
            raise errors[0]

    def check(self) -> None:
        """Raise LookupError if there are no rows yet, or if they are too old."""
        if not self._has_rows:
            raise LookupError(
                f"the {self._kind.name} source has not returned any {self._kind.name}s yet"
            )
        if self._failures > _MAX_FAILURES:
            raise LookupError(
                f"the {self._kind.name} source has failed {self._failures} times in a row: its "
                f"last {self._kind.name}s are too old"
            )

    async def _call(self) -> tuple[object, ...]:
        name = self._kind.name
        with anyio.fail_after(self._timeout):
            result = self._source()
            rows = await result if isawaitable(result) else result
        if not isinstance(rows, Iterable):
            raise ValueError(f"the {name} source must return a list of {name}s, got {rows!r}")
        first = tuple(islice(rows, self._max_keys + 1))
        if len(first) > self._max_keys:
            raise ValueError(
                f"the {name} source must return at most {self._max_keys} {name}s, got more: return "
                "only those near their limit, or raise max_keys"
            )
        return first

    def _parsed(self, row: object) -> _Row:
        try:
            return self._parse(row)
        except (TypeError, ValueError, ArithmeticError):
            raise ValueError(
                f"a {self._kind.name} must be {self._kind.expected}, got {_shown(row)}"
            ) from None

    def _identity_of(self, row: object) -> set[object]:
        """Return what an invalid row is about, if that is valid."""
        try:
            return {self._identify(row)}
        except (TypeError, ValueError, LookupError):
            return set()


def near_limit(usages: Iterable[tuple[ReportKey, Usage]]) -> dict[ReportKey, Usage]:
    """Return the usages of at least half of the limit; at most 1,000, the largest last."""
    shares = [
        (usage[0] / usage[1], key, usage)
        for key, usage in usages
        if usage[0] >= usage[1] * _MIN_REPORTED_SHARE > 0
    ]
    most = nlargest(_MAX_REPORTED, shares, key=itemgetter(0))
    return {key: usage for _, key, usage in reversed(most)}


def parse_identity(value: object) -> str:
    """Return the text of an identifier.

    Raises:
        TypeError: It is neither a string nor an integer.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError
    return str(value)


def parse_number(value: object) -> float:
    """Return a number of any kind as an integer or a float.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not finite, or too large.
    """
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError
    number = int(value) if isinstance(value, Integral) else float(value)
    if not -MAX_NUMBER <= number <= MAX_NUMBER:  # false for NaN
        raise ValueError
    return number


def _shown(row: object) -> str:
    try:
        return repr(row)[:_MAX_ROW_CHARS]
    except Exception:  # noqa: BLE001 - repr of foreign objects, or of huge integers, may raise
        return f"a {type(row).__name__}"
