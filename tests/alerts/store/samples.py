"""Records, of which a test says only what it is about."""

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

# What a database might trip over: quotes, a NUL, half a surrogate pair, an escape of its own.
ODD = 'it\'s "odd" \\u0000 \x00 \ud800 \\ é 键 \n%_'


def alert(identity: str = "a1", **changes: Any) -> AlertRecord:
    """An alert that fires since the second 100, or as told."""
    values: dict[str, Any] = {
        "id": identity,
        "fingerprint": f"trouble:key:{identity}",
        "rule": "trouble",
        "type": "trouble",
        "severity": "warning",
        "state": "firing",
        "finding": {"type": "trouble", "subject": {"kind": "key", "id": "k1", "name": ""}},
        "since": 100.0,
        "told": 100.0,
        "started_at": 100.0,
        "fired_at": 100.0,
    }
    return AlertRecord(**{**values, **changes})


def resolved(identity: str = "a1", at: float = 200, **changes: Any) -> AlertRecord:
    """An alert that is over."""
    return alert(identity, state="resolved", resolved_at=at, resolve_reason="gone", **changes)


def transition(alert_id: str = "a1", at: float = 100, **changes: Any) -> TransitionRecord:
    """An alert has fired, or as told."""
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
    """An event for the log."""
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
    """A silence on one type."""
    matchers = (Matcher("type", "trouble"), Matcher("subject", "key:.*", is_regex=True))
    return Silence(identity, matchers, starts_at, ends_at, "ada", "on it")


def notifications(*identities: str) -> Changes:
    """New notifications, in this order."""
    return Changes(notifications=tuple(notification(each) for each in identities))


def alerts(*records: AlertRecord) -> Changes:
    """Alerts that have changed."""
    return Changes(alerts=records)
