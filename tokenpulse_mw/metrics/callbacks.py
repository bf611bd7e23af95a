"""Metric families whose values are read by callbacks at each scrape."""

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

# Returns values by label values, or None if they are unknown at the moment.
Callback = Callable[[], Mapping[Labels, float] | None]


class FamilyCallbacks:
    """Callbacks of one family.

    A bound method is held weakly, so that a registry does not keep a discarded application alive.
    The last values of a discarded counter still count.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._callbacks: list[_Callback] = []
        self._discarded: Counter[Labels] = Counter()
        self._merge: Callable[[float, float], float] = (
            add if family.merge in ("sum", "largest") else min if family.merge == "least" else max
        )

    def add(self, callback: Callback) -> None:
        """Add a callback; values with the same labels are merged."""
        self._callbacks.append(_Callback(callback))

    def values(self) -> Mapping[Labels, float]:
        """Call all callbacks and return their merged values.

        Raises:
            Exception: A callback raised, or returned an invalid mapping.
        """
        total: dict[Labels, float] = dict(self._discarded)
        for callback in list(self._callbacks):
            if callback.is_discarded:
                self._callbacks.remove(callback)
                if self._family.kind != "counter":
                    continue
                self._discarded.update(callback.last)
            else:
                callback.refresh(self._family)
            for labels, value in callback.last.items():
                total[labels] = self._merge(total[labels], value) if labels in total else value
        return total


class CallbackFamilies:
    """Rows of several families, filled by callbacks.

    Args:
        tables: Rows of each family.
        on_error: Called once for each family that cannot be refreshed.
    """

    def __init__(self, tables: Iterable[Rows], *, on_error: Callable[[], object]) -> None:
        self._families = {rows.family.name: (rows, FamilyCallbacks(rows.family)) for rows in tables}
        self._on_error = on_error
        self._errors = ErrorReporter()
        self._lock = threading.Lock()

    def callbacks_of(self, name: str) -> FamilyCallbacks:
        """Return the callbacks of the family `name`.

        Raises:
            ValueError: No family with callbacks has this name.
        """
        if name not in self._families:
            raise ValueError(f"name must be one of {list(self._families)}, got {name!r}")
        return self._families[name][1]

    def refresh(self) -> None:
        """Update the rows of all families; a family that fails keeps its last values."""
        with self._lock:  # scrapes may run in several threads
            for name, (rows, callbacks) in self._families.items():
                try:
                    rows.update(callbacks.values())
                except Exception as error:  # noqa: BLE001 - the other families are still refreshed
                    self._errors.log(name, error)
                    self._on_error()
                else:
                    self._errors.recovered(name)


class _Callback:
    """Callback with its last values."""

    def __init__(self, callback: Callback) -> None:
        try:
            self._get = (
                WeakMethod(callback) if isinstance(callback, MethodType) else lambda: callback
            )
        except TypeError:  # the object does not support weak references
            self._get = lambda: callback
        self.last: Mapping[Labels, float] = {}

    @property
    def is_discarded(self) -> bool:
        return self._get() is None

    def refresh(self, family: Family) -> None:
        callback = self._get()
        values = callback() if callback is not None else None
        if values is not None:
            now = {_labels(family, labels): float(value) for labels, value in values.items()}
            # A label set that is missing from a counter keeps its last value.
            self.last = {**self.last, **now} if family.kind == "counter" else now


def _labels(family: Family, labels: Labels) -> Labels:
    if not isinstance(labels, tuple) or len(labels) != len(family.labels):
        raise ValueError(
            f"labels of {family.name} must be a tuple of {len(family.labels)} values for "
            f"{family.labels}, got {labels!r}"
        )
    return tuple(map(str, labels))


def count_tasks() -> Mapping[Labels, float] | None:
    """Return the number of tasks of the running asyncio event loop, or None without one."""
    try:
        return {(): len(asyncio.all_tasks())}
    except RuntimeError:
        return None
