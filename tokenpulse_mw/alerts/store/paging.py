"""Pages of alerts, and where the next one begins."""

from __future__ import annotations

import base64
import json
import math
from typing import NamedTuple

from .protocol import Page, check_limit
from .records import SEVERITIES, STATES, AlertRecord, check_choice


class Position(NamedTuple):
    """Where an alert stands in the list; unlike a number, it stays right when others come in."""

    started_at: float
    id: str


def place(alert: AlertRecord) -> Position:
    """Where `alert` stands."""
    return Position(alert.started_at, alert.id)


def as_cursor(place: Position) -> str:
    """`place` as text, fit for a URL."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def page(found: list[AlertRecord], limit: int) -> Page:
    """The page that `found` is, which has one alert more than `limit` when others follow."""
    items = tuple(found[:limit])
    return Page(items, as_cursor(place(items[-1])) if len(found) > limit else None)


def check_filters(state: str | None, severity: str | None, limit: int) -> None:
    """Refuse what no alert can be."""
    check_choice("state", state, (*STATES, None))
    check_choice("severity", severity, (*SEVERITIES, None))
    check_limit(limit)


def from_cursor(cursor: str) -> Position:
    """The place that `cursor` is the text of.

    Raises:
        ValueError: It is not the text of any.
    """
    try:
        text = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        started_at, identity = json.loads(base64.b64decode(text, b"-_", validate=True))
        if isinstance(identity, str) and math.isfinite(started_at):
            return Position(float(started_at), identity)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise ValueError(
        f"cursor must be the `next` of the page before, got {str(cursor)[:100]!r}: "
        "leave it out to begin with the newest"
    )
