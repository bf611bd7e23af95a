"""Families whose values are not counted but looked up, whenever somebody reads them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from types import MethodType
from weakref import WeakMethod

from .families import Family
from .rows import Labels

# Gives values by label values, or None where it cannot tell just now.
Source = Callable[[], Mapping[Labels, float] | None]


class Sources:
    """Whom to ask for the values of these families.

    A source that is a method is forgotten together with its object, so that an application which
    is gone leaves nothing behind on a registry that stays.
    """

    def __init__(self, *families: Family) -> None:
        self._sources: dict[str, list[Callable[[], Source | None]]] = {
            family.name: [] for family in families
        }

    def add(self, name: str, source: Source) -> None:
        """Ask `source` too for the family `name`; values of the same labels are added up.

        Raises:
            ValueError: There is no such family.
        """
        if name not in self._sources:
            raise ValueError(f"no family {name!r}: expected one of {list(self._sources)}")
        is_method = isinstance(source, MethodType)
        self._sources[name].append(WeakMethod(source) if is_method else lambda: source)

    def values(self, name: str) -> Mapping[Labels, float] | None:
        """What is to be shown of the family `name` now; None where nobody can tell.

        Raises:
            Exception: Whatever a source fails with.
        """
        known = [(ask, ask()) for ask in self._sources[name]]
        self._sources[name] = [ask for ask, source in known if source is not None]
        told = [source() for _, source in known if source is not None]
        total: Counter[Labels] = Counter()
        for values in told:
            total.update(values or {})
        return None if told and all(values is None for values in told) else total


def tasks() -> Mapping[Labels, float] | None:
    """How many tasks the event loop has, where it is asyncio's and we are in it."""
    try:
        return {(): len(asyncio.all_tasks())}
    except RuntimeError:
        return None
