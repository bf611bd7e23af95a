"""Changes in two parts, to find the one record that cannot be kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from .protocol import Changes
from .records import AlertRecord, Notification, TransitionRecord

_Kind = TypeVar("_Kind")


def halves(changes: Changes) -> tuple[Changes, ...]:
    """`changes` in two parts, to be kept one after the other; none where it is one record only.

    An alert is never in a later part than what happened to it.
    """
    records: list[object] = [
        *changes.alerts,
        *changes.transitions,
        *changes.notifications,
        *changes.forgotten,
    ]
    half = len(records) // 2
    return (_changes(records[:half]), _changes(records[half:])) if half else ()


def _changes(records: Iterable[object]) -> Changes:
    records = tuple(records)
    return Changes(
        _of(AlertRecord, records),
        _of(TransitionRecord, records),
        _of(Notification, records),
        _of(str, records),
    )


def _of(kind: type[_Kind], records: Iterable[object]) -> tuple[_Kind, ...]:
    return tuple(each for each in records if isinstance(each, kind))
