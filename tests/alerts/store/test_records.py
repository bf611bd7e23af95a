"""Records that cannot be are not made."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts.store import Ack, DeadLetter, ThresholdsVersion

from .samples import alert, notification, resolved, silence, transition


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "dormant"}, "state must be one of pending, firing, .*, got 'dormant'"),
        ({"severity": "fierce"}, "severity must be one of info, warning, critical, got 'fierce'"),
        ({"severity": None}, "severity must be one of info, warning, critical, got None"),
        ({"since": float("nan")}, "since must be a finite number, got nan"),
        ({"fired_at": float("inf")}, "fired_at must be a finite number, got inf"),
        ({"told": 10**400}, "told must be a finite number, got one that is too large"),
        ({"state": "resolved"}, "a resolved_at when, and only when, .* got 'resolved'"),
        ({"resolved_at": 5.0}, "got 'firing' with resolved_at=5.0"),
    ],
)
def test_an_alert_is_consistent(changes: dict[str, Any], message: str) -> None:
    """What makes no sense is told where it is made, and not when it is read again."""
    with pytest.raises(ValueError, match=message):
        alert(**changes)


def test_other_records_have_times_too() -> None:
    """A time that is none is told where it is made; so is a silence that never is."""
    nan = float("nan")
    with pytest.raises(ValueError, match="severity must be one of"):
        transition(severity="fierce")
    with pytest.raises(ValueError, match="value must be a finite number"):
        transition(value=nan)
    with pytest.raises(ValueError, match="due_at must be a finite number"):
        notification(due_at=nan)
    with pytest.raises(ValueError, match="at must be a finite number"):
        Ack("ada", nan)
    with pytest.raises(ValueError, match="at must be a finite number"):
        DeadLetter(notification(), nan, "")
    with pytest.raises(ValueError, match="at must be a finite number"):
        ThresholdsVersion(1, {}, nan, "ada")
    with pytest.raises(ValueError, match="a silence must end after it starts"):
        silence(starts_at=100, ends_at=100)


@pytest.mark.parametrize(
    ("finding", "subject"),
    [
        ({"subject": {"kind": "key", "id": "k:1", "name": "Ann"}}, "key:k:1"),
        ({"subject": ["key", "k1", "Ann"]}, "key:k1"),
        ({"subject": ("key", "k1")}, "key:k1"),
        ({"subject": ["key"]}, ""),
        ({"subject": "key:k1"}, ""),
        ({}, ""),
    ],
)
def test_an_alert_knows_its_subject(finding: dict[str, Any], subject: str) -> None:
    """It is what the finding says, in either form that JSON has for it; no other is guessed."""
    assert resolved(finding=finding).subject == subject
