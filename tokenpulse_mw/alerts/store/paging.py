"""Pages of alerts and their cursors."""

from __future__ import annotations

import base64
import json
import math
from typing import NamedTuple

from ...validation import check_choice
from .protocol import Page
from .records import SEVERITIES, STATE_FILTERS, AlertRecord


class Position(NamedTuple):
    """Sort key of an alert in the list; unlike an offset, new alerts do not shift it."""

    started_at: float
    id: str


def position_of(alert: AlertRecord) -> Position:
    """Return the position of `alert`."""
    return Position(alert.started_at, alert.id)


def as_cursor(position: Position) -> str:
    """Return `position` as text that is safe in a URL."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def page(alerts: list[AlertRecord], limit: int) -> Page:
    """Return the first `limit` of `alerts` as a page; more alerts mean that a page follows."""
    items = tuple(alerts[:limit])
    return Page(items, as_cursor(position_of(items[-1])) if len(alerts) > limit else None)


def accepted_values(
    state: str | None, severity: str | None, type: str | None, subject: str | None
) -> dict[str, tuple[str, ...]]:
    """Return the accepted values by field, of the filters that are not None.

    Raises:
        ValueError: No alert can match.
    """
    check_choice("state", state, (*STATE_FILTERS, None))
    check_choice("severity", severity, (*SEVERITIES, None))
    filters = {"state": state, "severity": severity, "type": type, "subject": subject}
    accepted = {name: (value,) for name, value in filters.items() if value is not None}
    return accepted | ({"state": ("firing", "recovering")} if state == "active" else {})


def from_cursor(cursor: str) -> Position:
    """Return the position that `cursor` encodes.

    Raises:
        ValueError: `cursor` is not the cursor of a page.
    """
    try:
        text = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        started_at, alert_id = json.loads(base64.b64decode(text, b"-_", validate=True))
        if isinstance(alert_id, str) and math.isfinite(started_at):
            return Position(float(started_at), alert_id)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        pass
    raise ValueError(
        f"cursor must be `next` of the previous page, got {str(cursor)[:100]!r}: "
        "omit it to start with the newest alert"
    )
