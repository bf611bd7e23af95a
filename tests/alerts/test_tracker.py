"""AlertTracker: changes, notifications and records of each evaluation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent, Finding, Severity
from tokenpulse_mw.alerts.lifecycle import RANKS, Alert, Transition
from tokenpulse_mw.alerts.steps import Steps, finish
from tokenpulse_mw.alerts.store import Ack, AlertRecord
from tokenpulse_mw.alerts.tracker import (
    AlertChanges,
    AlertTracker,
    Episode,
    episode_of,
    notification_for,
    record_of,
)

from .findings import finding, never_silenced


class TrackerDriver:
    """A tracker of two rules; the wall clock is 1,000 seconds ahead of the engine's clock."""

    def __init__(self) -> None:
        self.silenced = False
        self.ids = iter([f"a{number}" for number in range(1, 100)])
        self.tracker = self.new_tracker()

    def new_tracker(self, *rules: str) -> AlertTracker:
        """Return a tracker without alerts."""
        return AlertTracker(
            rules or ("rule", "other"),
            cooldown=100,
            is_silenced=self.is_silenced,
            new_id=lambda: next(self.ids),
        )

    def evaluate(self, now: float, *findings: Finding, rule: str = "rule") -> AlertChanges:
        """Return the changes of an evaluation of one rule."""
        staged = finish(self.tracker.advance(rule, findings, now, now + 1000))
        self.tracker.commit(staged)
        (changes,) = staged.changes
        return changes

    def is_silenced(self, finding: Finding, at: float) -> Steps[bool]:
        """Return True while `silenced` is True."""
        yield from ()
        return self.silenced

    def restart(self, records: Iterable[AlertRecord], now: float, *rules: str) -> AlertChanges:
        """Restore records in a new tracker, of other rules if given, and return the changes.

        The traffic windows are empty.
        """
        self.tracker = self.new_tracker(*rules)
        changes, at = AlertChanges(), now + 1000
        for record in records:
            self.tracker.resume(record, now=now, at=at, changes=changes, complete_since=at)
        return changes


def transitions_of(events: Iterable[AlertEvent]) -> list[tuple[str, Severity | None]]:
    """Return the transition and the severity of each event."""
    return [(event.transition, event.finding.severity) for event in events]


def test_new_alert_is_notified_and_recorded() -> None:
    """The record has a new id, the times, and the notified severity."""
    changes = TrackerDriver().evaluate(10, finding())

    (record,) = changes.alerts
    (transition,) = changes.transitions
    assert transitions_of(changes.events) == [("fired", "warning")]
    assert transitions_of(changes.notifications) == [("fired", "warning")]
    assert (record.id, record.rule, record.state) == ("a1", "rule", "firing")
    assert record.notified_severity == "warning"
    assert (record.started_at, record.fired_at, record.since) == (1010, 1010, 1010)
    assert (transition.alert_id, transition.transition, transition.at) == ("a1", "fired", 1010)


def test_evaluation_without_a_change_records_nothing() -> None:
    """The store has nothing to write."""
    driver = TrackerDriver()
    driver.evaluate(10, finding())

    assert driver.evaluate(20, finding()) == AlertChanges()


def test_new_value_is_recorded_without_an_event() -> None:
    """The stored alert has the current value."""
    driver = TrackerDriver()
    driver.evaluate(10, finding(value=1))
    changes = driver.evaluate(20, finding(value=2))

    assert (changes.events, changes.notifications, changes.transitions) == ([], [], [])
    assert [record.finding["value"] for record in changes.alerts] == [2]


def test_pending_alert_is_recorded_and_not_notified() -> None:
    """A pending alert starts at its first finding."""
    driver = TrackerDriver()
    pending = driver.evaluate(10, finding(hold_for=30))
    fired = driver.evaluate(40, finding(hold_for=30))

    assert [(record.state, record.fired_at) for record in pending.alerts] == [("pending", None)]
    assert (pending.events, pending.transitions) == ([], [])
    assert [(record.started_at, record.fired_at) for record in fired.alerts] == [(1010, 1040)]
    assert transitions_of(fired.notifications) == [("fired", "warning")]


def test_pending_alert_that_is_not_found_again_is_removed() -> None:
    """There is no event, and the store deletes the record."""
    driver = TrackerDriver()
    driver.evaluate(10, finding(hold_for=30))
    changes = driver.evaluate(20)

    assert changes == AlertChanges(forgotten=["a1"])
    assert driver.tracker.counts() == {}


def test_finding_without_severity_opens_no_alert() -> None:
    """Such a finding uses no id."""
    driver = TrackerDriver()

    assert driver.evaluate(10, finding(None)) == AlertChanges()
    assert [record.id for record in driver.evaluate(20, finding()).alerts] == ["a1"]


def test_alert_that_is_not_found_any_more_is_resolved() -> None:
    """The next finding opens an alert with a new id."""
    driver = TrackerDriver()
    driver.evaluate(10, finding())
    resolved, fired_again = driver.evaluate(20), driver.evaluate(30, finding())

    assert transitions_of(resolved.events) == [("resolved", "warning")]
    assert transitions_of(resolved.notifications) == [("resolved", "warning")]
    assert [(record.id, record.state, record.resolved_at) for record in resolved.alerts] == [
        ("a1", "resolved", 1020)
    ]
    assert [record.id for record in fired_again.alerts] == ["a2"]


def test_reminder_is_notified_and_is_not_a_stored_transition() -> None:
    """The record has the time of the reminder."""
    driver = TrackerDriver()
    driver.evaluate(10, finding())
    changes = driver.evaluate(110, finding())

    assert transitions_of(changes.notifications) == [("reminded", "warning")]
    assert changes.transitions == []
    assert [(record.last_notified_at, record.since) for record in changes.alerts] == [(1110, 1010)]


def test_each_rule_has_its_own_alerts() -> None:
    """Two rules may have alerts with one fingerprint."""
    driver = TrackerDriver()
    driver.evaluate(10, finding())
    driver.evaluate(10, finding(), rule="other")

    assert [record.rule for record in driver.evaluate(20).alerts] == ["rule"]
    assert len(driver.tracker.findings()) == 1


def test_silenced_alert_is_notified_when_the_silence_ends() -> None:
    """During the silence its transitions are recorded, but it is neither notified nor resent."""
    driver = TrackerDriver()
    driver.silenced = True
    silenced = driver.evaluate(10, finding())
    assert transitions_of(silenced.events) == [("fired", "warning")]
    assert silenced.notifications == []
    assert (silenced.alerts[0].notified_severity, finish(driver.tracker.firing())) == (None, [])
    assert driver.evaluate(20, finding("critical")).notifications == []

    driver.silenced = False
    changes = driver.evaluate(30, finding("critical"))

    assert changes.events == []
    assert transitions_of(changes.notifications) == [("fired", "critical")]
    assert changes.notifications[0].at == 1030
    assert [record.notified_severity for record in changes.alerts] == ["critical"]


def test_resolution_of_an_alert_that_was_never_notified_is_not_notified() -> None:
    """The resolution is recorded."""
    driver = TrackerDriver()
    driver.silenced = True
    driver.evaluate(10, finding())
    driver.silenced = False
    changes = driver.evaluate(20)

    assert transitions_of(changes.events) == [("resolved", "warning")]
    assert changes.notifications == []


def test_resolution_of_a_notified_alert_is_notified_in_a_silence() -> None:
    """The notification has the severity that was notified last."""
    driver = TrackerDriver()
    driver.evaluate(10, finding("warning"))
    driver.silenced = True
    assert driver.evaluate(20, finding("critical")).notifications == []
    changes = driver.evaluate(30)

    assert transitions_of(changes.events) == [("resolved", "critical")]
    assert transitions_of(changes.notifications) == [("resolved", "warning")]
    assert changes.notifications[0].alert_id == changes.events[0].alert_id


def test_change_in_a_silence_is_notified_when_it_ends() -> None:
    """The change is relative to the severity that was notified last."""
    driver = TrackerDriver()
    driver.evaluate(10, finding("info"))
    driver.silenced = True
    driver.evaluate(20, finding("critical"))
    driver.silenced = False
    changes = driver.evaluate(30, finding("warning"))

    assert [(event.transition, event.previous) for event in changes.events] == [
        ("deescalated", "critical")
    ]
    assert [(event.transition, event.previous) for event in changes.notifications] == [
        ("escalated", "info")
    ]


def test_acknowledged_alert_is_not_reminded() -> None:
    """Other changes are notified, and reminders return without the acknowledgement."""
    driver = TrackerDriver()
    driver.evaluate(10, finding())
    finish(driver.tracker.set_acks({"a1": Ack("ada", 1011)}))
    reminded, escalated = driver.evaluate(110, finding()), driver.evaluate(120, finding("critical"))
    finish(driver.tracker.set_acks({"a1": None, "unknown": None}))
    reminded_again, resolved = driver.evaluate(220, finding("critical")), driver.evaluate(230)

    assert transitions_of(reminded.events) == [("reminded", "warning")]
    assert reminded.notifications == []
    assert [record.ack for record in escalated.alerts] == [Ack("ada", 1011)]
    notifications = [
        event
        for changes in (escalated, reminded_again, resolved)
        for event in changes.notifications
    ]
    assert transitions_of(notifications) == [
        ("escalated", "critical"),
        ("reminded", "critical"),
        ("resolved", "critical"),
    ]


def test_firing_has_notified_severities_and_findings_has_current_ones() -> None:
    """A silenced alert is among the findings only, and a pending alert in neither."""
    driver = TrackerDriver()
    driver.evaluate(10, finding("warning"), finding(subject="k2", hold_for=60))
    driver.silenced = True
    driver.evaluate(
        20, finding("critical"), finding(subject="k2", hold_for=60), finding(subject="k3")
    )

    assert transitions_of(finish(driver.tracker.firing())) == [("fired", "warning")]
    assert [(firing.subject.id, firing.severity) for firing in driver.tracker.findings()] == [
        ("k1", "critical"),
        ("k3", "warning"),
    ]
    assert driver.tracker.counts() == {
        ("trouble", "critical", "firing"): 1,
        ("trouble", "warning", "pending"): 1,
        ("trouble", "warning", "firing"): 1,
    }


def test_most_severe_of_several_findings_of_one_alert_counts() -> None:
    """Among equal severities the first one counts."""
    findings = [finding(None), finding("info"), finding("critical", value=1), finding("critical")]
    changes = TrackerDriver().evaluate(10, *findings)

    assert [(event.finding.severity, event.finding.value) for event in changes.events] == [
        ("critical", 1)
    ]


@pytest.mark.parametrize("severity", ["awful", 5])
def test_evaluation_with_an_invalid_finding_changes_nothing(severity: Any) -> None:
    """The valid findings before it are discarded too."""
    driver = TrackerDriver()
    driver.evaluate(10, finding())
    with pytest.raises((KeyError, ValueError)):
        driver.evaluate(20, finding("critical"), finding(severity, subject="k2"))

    changes = driver.evaluate(30, finding("critical"))
    assert transitions_of(changes.events) == [("escalated", "critical")]


def test_restored_alert_continues() -> None:
    """The id and the times are the same, and nothing is notified again."""
    driver = TrackerDriver()
    records = driver.evaluate(10, finding()).alerts
    assert driver.restart(records, 500) == AlertChanges()
    reminded, resolved = driver.evaluate(510, finding()), driver.evaluate(520)

    assert transitions_of(reminded.notifications) == [("reminded", "warning")]
    assert [(record.id, record.fired_at, record.state) for record in resolved.alerts] == [
        ("a1", 1010, "resolved")
    ]


def test_restored_alert_is_held_for_the_window_of_its_rule() -> None:
    """A finding in between does not change that."""
    driver = TrackerDriver()
    records = driver.evaluate(10, finding(window=60)).alerts
    driver.restart(records, 100)
    assert [driver.evaluate(now) for now in (110, 159)] == [AlertChanges(), AlertChanges()]
    assert transitions_of(driver.evaluate(160).events) == [("resolved", "warning")]

    driver.restart(records, 100)
    driver.evaluate(110, finding(window=60))
    assert driver.evaluate(120) == AlertChanges()
    assert transitions_of(driver.evaluate(160).events) == [("resolved", "warning")]


def test_held_alert_escalates_and_does_not_deescalate() -> None:
    """The counts of the rule start from zero after a restart."""
    driver = TrackerDriver()
    driver.restart(driver.evaluate(10, finding("warning", window=60)).alerts, 100)

    for severity in (None, "info"):
        assert driver.evaluate(110, finding(severity, window=60)).events == []
    changes = driver.evaluate(120, finding("critical", window=60))
    assert transitions_of(changes.events) == [("escalated", "critical")]


def test_released_alert_is_resolved_in_the_next_evaluation() -> None:
    """The window of its rule no longer matters."""
    driver = TrackerDriver()
    driver.restart(driver.evaluate(10, finding(window=3600)).alerts, 100)
    finish(driver.tracker.release_held())

    assert transitions_of(driver.evaluate(110).events) == [("resolved", "warning")]


def test_restored_alert_without_its_rule_is_resolved() -> None:
    """The resolution is notified if the alert was."""
    driver = TrackerDriver()
    records = driver.evaluate(10, finding()).alerts
    changes = driver.restart(records, 100, "another")

    assert [(record.id, record.state) for record in changes.alerts] == [("a1", "resolved")]
    assert [transition.transition for transition in changes.transitions] == ["resolved"]
    assert transitions_of(changes.notifications) == [("resolved", "warning")]


def test_restored_alert_without_its_rule_is_not_notified_if_it_never_was() -> None:
    """The alert was silenced, or was still pending."""
    driver = TrackerDriver()
    driver.silenced = True
    records = driver.evaluate(10, finding(), finding(subject="k2", hold_for=60)).alerts
    changes = driver.restart(records, 100, "another")

    assert changes.notifications == []
    assert [transition.alert_id for transition in changes.transitions] == ["a1"]


def test_alert_that_fired_again_before_it_was_restored_replaces_the_stored_one() -> None:
    """The stored alert is ended without a notification: its sinks have the new one."""
    driver = TrackerDriver()
    records = driver.evaluate(10, finding()).alerts
    driver.restart([], 100)
    driver.evaluate(110, finding())
    changes = AlertChanges()
    assert driver.tracker.resume(records[0], now=120, at=1120, changes=changes) is None

    assert [(record.id, record.state) for record in changes.alerts] == [("a1", "resolved")]
    assert (changes.notifications, changes.transitions) == ([], [])
    assert [event.alert_id for event in finish(driver.tracker.firing())] == ["a2"]


def test_invalid_record_is_logged_and_ended(caplog: pytest.LogCaptureFixture) -> None:
    """The other fields of the record stay as stored."""
    driver = TrackerDriver()
    (record,) = driver.evaluate(10, finding()).alerts
    unreadable = replace(record, finding={"type": "trouble"})
    changes = driver.restart([unreadable], 100)

    assert changes == AlertChanges(
        alerts=[
            replace(unreadable, state="resolved", resolved_at=1100, resolve_reason="unreadable")
        ]
    )
    assert caplog.messages == [
        "stored alert is invalid, resolving it: alert=a1 error=KeyError('value')"
    ]


def test_findings_above_the_limit_open_no_alert(caplog: pytest.LogCaptureFixture) -> None:
    """The most severe ones are opened; the others are counted, and logged once until all fit."""
    caplog.set_level(logging.WARNING)
    tracker = AlertTracker(["rule"], cooldown=100, is_silenced=never_silenced, max_open=2)

    def evaluate(now: float, *findings: Finding) -> list[str]:
        staged = finish(tracker.advance("rule", findings, now, now))
        tracker.commit(staged)
        return [
            f"{event.transition} {event.finding.subject.id}" for event in staged.changes[0].events
        ]

    info = finding("info", subject="k1")
    others = finding("critical", subject="k2"), finding(subject="k3")
    assert evaluate(0, info, *others) == ["fired k2", "fired k3"]
    assert evaluate(10, info, *others) == []
    assert tracker.overflowed == 2
    assert caplog.messages == [
        "too many open alerts: rule=rule open=2 left_out=1 (logged once until all fit)"
    ]
    assert evaluate(20, info) == ["resolved k2", "resolved k3"]
    assert evaluate(30, info) == ["fired k1"]
    assert evaluate(40, info, *others) == ["fired k2"]
    assert (tracker.overflowed, len(caplog.records)) == (4, 2)
    assert sum(tracker.counts().values()) == 2


NOW, AT = 500.0, 1_000_500.0  # the same moment on the monotonic and on the wall clock


EPISODE = Episode(
    "a1",
    "planned",
    Alert(finding("critical", value=0.5), "firing", 400, 450),
    started_at=1_000_390,
    fired_at=1_000_400,
    notified_severity="warning",
    ack=Ack("ada", 1_000_410, "on it"),
)


seconds = st.integers(0, 500).map(float)


severities: st.SearchStrategy[Severity] = st.sampled_from(list(RANKS))


@given(
    state=st.sampled_from(["pending", "firing", "recovering"]),
    severity=severities,
    since=seconds,
    notified_at=seconds,
    notified_severity=st.none() | severities,
    downtime=seconds,
)
def test_episode_is_restored_from_its_record(
    state: Literal["pending", "firing", "recovering"],
    severity: Severity,
    since: float,
    notified_at: float,
    notified_severity: Severity | None,
    downtime: float,
) -> None:
    """The times are shifted to the clock of the new process, and the downtime counts."""
    alert = Alert(finding(severity, window=60), state, since, notified_at)
    episode = replace(EPISODE, alert=alert, notified_severity=notified_severity)

    record = record_of(episode, now=NOW, at=AT)
    restored = episode_of(record, now=7, at=AT + downtime, complete_since=AT + downtime - 20)

    shift = 7 - (NOW + downtime)
    assert restored == replace(
        episode, alert=replace(alert, since=since + shift, notified_at=notified_at + shift)
    )
    assert restored.held_until == 47


def test_record_has_times_since_the_epoch() -> None:
    """Monotonic times have no meaning in another process."""
    record = record_of(EPISODE, now=NOW, at=AT)

    assert (record.since, record.last_notified_at) == (1_000_400, 1_000_450)
    assert (record.started_at, record.fired_at) == (1_000_390, 1_000_400)
    assert (record.resolved_at, record.resolve_reason) == (None, None)


def test_record_of_an_ended_episode_is_resolved() -> None:
    """The record has the time and the reason of the end."""
    record = record_of(EPISODE, now=NOW, at=AT, resolve_reason="gone")

    assert (record.state, record.since, record.resolved_at) == ("resolved", AT, AT)
    assert record.resolve_reason == "gone"


def test_restored_times_are_not_in_the_future() -> None:
    """If the wall clock was set back, they are the current time."""
    restored = episode_of(record_of(EPISODE, now=NOW, at=AT), now=NOW, at=AT - 3600)

    assert (restored.alert.since, restored.alert.notified_at) == (NOW, NOW)


@pytest.mark.parametrize(
    "record",
    [
        record_of(EPISODE, now=NOW, at=AT, resolve_reason="gone"),
        replace(record_of(EPISODE, now=NOW, at=AT), severity="info"),
    ],
    ids=["resolved", "two severities"],
)
def test_record_that_is_not_of_an_open_alert_is_rejected(record: AlertRecord) -> None:
    """The alert is resolved, or record and finding have different severities."""
    with pytest.raises(ValueError, match=r"^record must be of an open alert, got "):
        episode_of(record, now=NOW, at=AT)


@pytest.mark.parametrize("values", [{}, {"type": "t"}, {"subject": None, "value": 1}])
def test_record_with_an_invalid_finding_is_rejected(values: dict[str, object]) -> None:
    """The error is one of those that `resume` catches."""
    record = replace(record_of(EPISODE, now=NOW, at=AT), finding=values)

    with pytest.raises((KeyError, TypeError, ValueError)):
        episode_of(record, now=NOW, at=AT)


@pytest.mark.parametrize(
    ("state", "fires"), [("pending", False), ("firing", True), ("recovering", True)]
)
def test_episode_fires_unless_it_is_pending(
    state: Literal["pending", "firing", "recovering"], fires: bool
) -> None:
    """A recovering alert still fires."""
    assert replace(EPISODE, alert=replace(EPISODE.alert, state=state)).fires == fires


def test_event_has_alert_id_and_times_of_its_episode() -> None:
    """Only a change of severity has the previous severity."""
    event = EPISODE.event("escalated", AT, "warning")

    assert (event.alert_id, event.fired_at, event.at) == ("a1", 1_000_400, AT)
    assert (event.finding, event.previous) == (EPISODE.alert.finding, "warning")
    assert EPISODE.event("deescalated", AT, "warning").previous == "warning"
    assert EPISODE.event("fired", AT, "warning").previous is None


def test_resent_event_has_the_notified_severity_and_the_current_value() -> None:
    """A change of severity is an event of its own."""
    event = EPISODE.as_notified()

    assert (event.transition, event.at, event.alert_id) == ("fired", 1_000_400, "a1")
    assert event.finding == finding("warning", value=0.5)


def test_resent_event_without_a_firing_time_has_the_start_time() -> None:
    """The start time is that of the first finding."""
    assert replace(EPISODE, fired_at=None).as_notified().at == 1_000_390


@pytest.mark.parametrize(("value", "stored"), [(0.5, 0.5), (math.nan, 0), (math.inf, 0)])
def test_transition_record_has_a_finite_value(value: float, stored: float) -> None:
    """A value that is not finite is stored as 0."""
    alert = replace(EPISODE.alert, finding=finding("critical", value=value))
    record = replace(EPISODE, alert=alert).transition("fired", AT)

    assert (record.alert_id, record.fingerprint) == ("a1", "trouble:key:k1")
    assert (record.transition, record.severity) == ("fired", "critical")
    assert (record.value, record.at) == (stored, AT)


@pytest.mark.parametrize(
    ("notified_severity", "severity", "transition", "notification"),
    [
        # The alert was never notified.
        (None, "warning", "fired", "fired"),
        (None, "critical", "escalated", "fired"),
        (None, "info", "deescalated", "fired"),
        (None, "warning", "reminded", "fired"),
        (None, "warning", None, "fired"),
        (None, "warning", "resolved", None),
        # The notified severity is the current one.
        ("warning", "warning", None, None),
        ("warning", "warning", "reminded", "reminded"),
        ("warning", "warning", "resolved", "resolved"),
        ("warning", "warning", "escalated", None),
        ("critical", "critical", "deescalated", None),
        # The notified severity is another one.
        ("warning", "critical", "escalated", "escalated"),
        ("warning", "critical", "reminded", "escalated"),
        ("warning", "critical", None, "escalated"),
        ("info", "critical", "deescalated", "escalated"),
        ("warning", "info", "deescalated", "deescalated"),
        ("critical", "warning", "reminded", "deescalated"),
        ("critical", "info", None, "deescalated"),
        ("warning", "critical", "resolved", "resolved"),
    ],
)
def test_notification_depends_on_the_notified_severity(
    notified_severity: Severity | None,
    severity: Severity,
    transition: Transition | None,
    notification: Transition | None,
) -> None:
    """A notification reports the difference to what the sinks got last."""
    assert notification_for(notified_severity, severity, transition) == notification


@given(
    first=severities,
    changes=st.lists(st.tuples(st.none() | severities, st.booleans(), st.booleans()), max_size=20),
    first_is_silenced=st.booleans(),
    ends=st.booleans(),
)
def test_notified_alert_is_resolved_once(
    first: Severity,
    changes: list[tuple[Severity | None, bool, bool]],
    first_is_silenced: bool,
    ends: bool,
) -> None:
    """An alert that was always silenced has no notification; "resolved" is always the last one."""
    notified_severity: Severity | None = None
    severity = first
    notifications: list[Transition] = []
    for change, reminded, silenced in [(first, False, first_is_silenced), *changes]:
        transition: Transition | None = "reminded" if reminded else None
        severity = change or severity
        notification = notification_for(notified_severity, severity, transition)
        if notification is not None and not silenced:
            notifications.append(notification)
            notified_severity = severity
        assert silenced or notified_severity == severity
    end = notification_for(notified_severity, severity, "resolved") if ends else None
    notifications += [end] if end is not None else []

    assert notifications.count("fired") == (notified_severity is not None)
    assert notifications[:1] in ([], ["fired"])
    assert notifications.count("resolved") == (ends and notified_severity is not None)
    assert "resolved" not in notifications[:-1]
