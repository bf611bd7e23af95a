"""Validation of records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tokenpulse_mw.alerts.store import Ack, DeadLetter, ThresholdsVersion

from .leadership import process
from .samples import alert, notification, resolved, silence, transition


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state": "dormant"}, "state must be one of pending, firing, .*, got 'dormant'"),
        ({"severity": "fierce"}, "severity must be one of info, warning, critical, got 'fierce'"),
        ({"severity": None}, "severity must be one of info, warning, critical, got None"),
        ({"since": float("nan")}, "since must be a finite number, got nan"),
        ({"fired_at": float("inf")}, "fired_at must be a finite number, got inf"),
        (
            {"last_notified_at": 10**400},
            "last_notified_at must be a finite number, got one that is too large",
        ),
        *(
            (
                {"notified_severity": severity},
                "^notified_severity must be one of info, warning, critical, None, "
                f"got {severity!r}$",
            )
            for severity in ("", "fierce", "none")
        ),
        (
            {"state": "resolved"},
            "^resolved_at must be set if, and only if, state is 'resolved', "
            "got resolved_at=None with state='resolved'$",
        ),
        ({"resolved_at": 5.0}, "got resolved_at=5.0 with state='firing'"),
    ],
)
def test_alert_with_invalid_values_is_rejected(changes: dict[str, Any], message: str) -> None:
    """The constructor rejects invalid values, so that a store never has to."""
    with pytest.raises(ValueError, match=message):
        alert(**changes)


def test_other_records_with_invalid_values_are_rejected() -> None:
    """The constructors reject times that are not finite, and silences that end too early."""
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
    with pytest.raises(ValueError, match="ends_at must be later than starts_at, got starts_at=100"):
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
def test_subject_is_read_from_the_finding(finding: dict[str, Any], subject: str) -> None:
    """The subject is read from an object or an array, and is empty in any other case."""
    assert resolved(finding=finding).subject == subject


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"name": "p2", "host": "other", "pid": 8, "started_at": 9}, []),
        ({"rules": ("b", "a"), "sinks": ("page", "log")}, []),
        ({"rules": ("a",)}, ["rules"]),
        ({"sinks": ()}, ["sinks"]),
        ({"version": "0.2.0", "protocol": 2}, ["version", "protocol"]),
    ],
    ids=["process", "order", "rules", "sinks", "version"],
)
def test_processes_differ_by_rules_sinks_version_and_protocol(
    changes: dict[str, Any], differences: list[str]
) -> None:
    """The order of rules and sinks, the host and the start are not differences."""
    ours = replace(process("p1"), rules=("a", "b"), sinks=("log", "page"))

    assert replace(ours, **changes).differences(ours) == differences
