"""Families whose values are not counted but looked up, whenever somebody reads them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from operator import add
from types import MethodType
from weakref import WeakMethod

from ..exchange import ErrorReporter
from .families import Family
from .rows import Labels, Rows

# Gives values by label values, or None where it cannot tell just now.
Callback = Callable[[], Mapping[Labels, float] | None]


class CallbackFamilies:
    """Whom to ask for the values of one family.

    A source that is a method is forgotten together with its object, so that an application which
    is gone leaves nothing behind on a registry that stays. What it has counted stays counted.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._asked: list[_Callback] = []
        self._gone: Counter[Labels] = Counter()
        self._together = min if family.merge == "min" else add

    def add(self, source: Callback) -> None:
        """Ask `source` too; values of the same labels are added up, or the least of them counts."""
        self._asked.append(_Callback(source))

    def values(self) -> Mapping[Labels, float]:
        """What is to be shown now.

        Raises:
            Exception: A source fails, or gives what is no mapping of label values to numbers.
        """
        total: dict[Labels, float] = dict(self._gone)
        for asked in list(self._asked):
            if asked.is_gone:
                self._asked.remove(asked)
                if self._family.kind != "counter":
                    continue
                self._gone.update(asked.last)
            else:
                asked.call(self._family)
            for labels, value in asked.last.items():
                total[labels] = self._together(total[labels], value) if labels in total else value
        return total


class RefreshedCallbacks:
    """The rows of several families, and whom to ask for their values.

    Args:
        tables: The rows of each family.
        on_error: Called for each family whose values could not be had.
    """

    def __init__(self, tables: Iterable[Rows], *, on_error: Callable[[], object]) -> None:
        self._families = {
            rows.family.name: (rows, CallbackFamilies(rows.family)) for rows in tables
        }
        self._on_error = on_error
        self._failures = ErrorReporter()
        self._lock = threading.Lock()

    def callbacks(self, name: str) -> CallbackFamilies:
        """Who is asked for the values of the family `name`.

        Raises:
            ValueError: There is no such family, or its values are not looked up.
        """
        if name not in self._families:
            raise ValueError(f"no family {name!r}: expected one of {list(self._families)}")
        return self._families[name][1]

    def refresh(self) -> None:
        """Bring all rows up to date."""
        with self._lock:  # two threads may read at the same time
            for name, (rows, sources) in self._families.items():
                try:
                    rows.show(sources.values())
                except Exception as error:  # noqa: BLE001 - the other families are to be read still
                    self._failures.log(name, error)
                    self._on_error()
                else:
                    self._failures.recovered(name)


class _Callback:
    """A source, and what it has last told."""

    def __init__(self, source: Callback) -> None:
        try:
            self._source = WeakMethod(source) if isinstance(source, MethodType) else lambda: source
        except TypeError:  # an object without room for weak references
            self._source = lambda: source
        self.last: Mapping[Labels, float] = {}

    @property
    def is_gone(self) -> bool:
        return self._source() is None

    def call(self, family: Family) -> None:
        source = self._source()
        told = source() if source is not None else None
        if told is not None:
            now = {_labels(family, labels): float(value) for labels, value in told.items()}
            # A counter of theirs that begins anew, or leaves somebody out, goes on where it was.
            self.last = {**self.last, **now} if family.kind == "counter" else now


def _labels(family: Family, labels: Labels) -> Labels:
    if not isinstance(labels, tuple) or len(labels) != len(family.labels):
        raise ValueError(
            f"{family.name} has the labels {family.labels}, so a source gives values by tuples of "
            f"{len(family.labels)}, got {labels!r}"
        )
    return tuple(map(str, labels))


def tasks() -> Mapping[Labels, float] | None:
    """How many tasks the event loop has, where it is asyncio's and we are in it."""
    try:
        return {(): len(asyncio.all_tasks())}
    except RuntimeError:
        return None
