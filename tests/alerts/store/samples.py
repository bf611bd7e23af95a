"""Records with default values."""

from __future__ import annotations

from typing import Any

from tokenpulse_mw.alerts.store import (
    AlertRecord,
    Changes,
    Matcher,
    Notification,
    Silence,
    TransitionRecord,
)

# Text that is difficult to store: quotes, NUL, half a surrogate pair, and the store's own escape.
ODD = 'it\'s "odd" \\u0000 \x00 \ud800 \\ é 键 \n%_'


def alert(identity: str = "a1", **changes: Any) -> AlertRecord:
    """Return an alert that fires since second 100, with `changes`."""
    values: dict[str, Any] = {
        "id": identity,
        "fingerprint": f"trouble:key:{identity}",
        "rule": "trouble",
        "type": "trouble",
        "severity": "warning",
        "state": "firing",
        "finding": {"type": "trouble", "subject": {"kind": "key", "id": "k1", "name": ""}},
        "since": 100.0,
        "last_notified_at": 100.0,
        "started_at": 100.0,
        "fired_at": 100.0,
    }
    return AlertRecord(**{**values, **changes})


def resolved(identity: str = "a1", at: float = 200, **changes: Any) -> AlertRecord:
    """Return a resolved alert."""
    return alert(identity, state="resolved", resolved_at=at, resolve_reason="gone", **changes)


def transition(alert_id: str = "a1", at: float = 100, **changes: Any) -> TransitionRecord:
    """Return the transition `fired` of an alert, with `changes`."""
    values: dict[str, Any] = {
        "alert_id": alert_id,
        "fingerprint": f"trouble:key:{alert_id}",
        "transition": "fired",
        "severity": "warning",
        "value": 0.5,
        "at": at,
    }
    return TransitionRecord(**{**values, **changes})


def notification(identity: str = "n1", **changes: Any) -> Notification:
    """Return a notification for the sink `log`, with `changes`."""
    values: dict[str, Any] = {
        "id": identity,
        "sink": "log",
        "alert_id": "a1",
        "fingerprint": "trouble:key:a1",
        "event": {"transition": "fired"},
        "created_at": 100.0,
    }
    return Notification(**{**values, **changes})


def silence(identity: str = "s1", starts_at: float = 100, ends_at: float = 200) -> Silence:
    """Return a silence of one type of alerts."""
    matchers = (Matcher("type", "trouble"), Matcher("subject", "key:.*", is_regex=True))
    return Silence(identity, matchers, starts_at, ends_at, "ada", "on it")


def notifications(*identities: str) -> Changes:
    """Return changes with new notifications."""
    return Changes(notifications=tuple(map(notification, identities)))


def alerts(*records: AlertRecord) -> Changes:
    """Return changes with alerts."""
    return Changes(alerts=records)
