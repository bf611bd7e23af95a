"""The board: what each round makes of the alerts, what is told of them, and what is kept."""

from __future__ import annotations

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

from .findings import finding


class Rounds:
    """A board of two rules, round by round; the wall clock is 1,000 seconds ahead."""

    def __init__(self) -> None:
        self.silenced = False
        self.ids = iter([f"a{number}" for number in range(1, 100)])
        self.board = self.new_board()

    def new_board(self, *rules: str) -> AlertTracker:
        """One that knows nothing."""
        return AlertTracker(
            rules or ("rule", "other"),
            cooldown=100,
            is_silenced=self.is_silenced,
            new_id=lambda: next(self.ids),
        )

    def go(self, now: float, *found: Finding, rule: str = "rule") -> AlertChanges:
        """One round of a rule."""
        staged = finish(self.board.advance(rule, found, now, now + 1000))
        self.board.commit(staged)
        (news,) = staged.changes
        return news

    def is_silenced(self, finding: Finding, at: float) -> Steps[bool]:
        """Whether a silence matches."""
        yield from ()
        return self.silenced

    def restart(self, records: Iterable[AlertRecord], now: float, *rules: str) -> AlertChanges:
        """Go on with a new board, of these rules if not the same ones."""
        self.board = self.new_board(*rules)
        news = AlertChanges()
        for record in records:
            self.board.resume(record, now=now, at=now + 1000, changes=news)
        return news


def happened(events: Iterable[AlertEvent]) -> list[tuple[str, Severity | None]]:
    """What events say."""
    return [(each.transition, each.finding.severity) for each in events]


def test_a_new_alert_is_told_and_kept() -> None:
    """With an id of its own, and when it was first found and fired."""
    news = Rounds().go(10, finding())

    (record,) = news.alerts
    (transition,) = news.transitions
    assert happened(news.events) == happened(news.notifications) == [("fired", "warning")]
    assert (record.id, record.rule, record.state, record.notified_severity) == (
        "a1",
        "rule",
        "firing",
        "warning",
    )
    assert (record.started_at, record.fired_at, record.since) == (1010, 1010, 1010)
    assert (transition.alert_id, transition.transition, transition.at) == ("a1", "fired", 1010)


def test_a_round_that_changes_nothing_keeps_nothing() -> None:
    """A store is not asked to write what it knows."""
    rounds = Rounds()
    rounds.go(10, finding())

    assert rounds.go(20, finding()) == AlertChanges()


def test_what_is_found_now_is_kept() -> None:
    """Another value is no event, but a page that shows the alert shows it."""
    rounds = Rounds()
    rounds.go(10, finding(value=1))
    news = rounds.go(20, finding(value=2))

    assert (news.events, news.notifications, news.transitions) == ([], [], [])
    assert [each.finding["value"] for each in news.alerts] == [2]


def test_an_alert_that_must_last_is_kept_and_not_told_yet() -> None:
    """It began when it was first found."""
    rounds = Rounds()
    pending = rounds.go(10, finding(hold_for=30))
    fired = rounds.go(40, finding(hold_for=30))

    assert [(each.state, each.fired_at) for each in pending.alerts] == [("pending", None)]
    assert (pending.events, pending.transitions) == ([], [])
    assert [(each.started_at, each.fired_at) for each in fired.alerts] == [(1010, 1040)]
    assert happened(fired.notifications) == [("fired", "warning")]


def test_an_alert_that_never_fired_leaves_no_trace() -> None:
    """Nobody has heard of it."""
    rounds = Rounds()
    rounds.go(10, finding(hold_for=30))
    news = rounds.go(20)

    assert news == AlertChanges(forgotten=["a1"])
    assert rounds.board.counts() == {}


def test_a_finding_that_is_not_bad_enough_begins_nothing() -> None:
    """Nor does it take an id."""
    rounds = Rounds()

    assert rounds.go(10, finding(None)) == AlertChanges()
    assert [each.id for each in rounds.go(20, finding()).alerts] == ["a1"]


def test_an_alert_that_is_over_is_told_and_kept_as_such() -> None:
    """And the next one is another one."""
    rounds = Rounds()
    rounds.go(10, finding())
    over, again = rounds.go(20), rounds.go(30, finding())

    assert happened(over.events) == happened(over.notifications) == [("resolved", "warning")]
    assert [(each.id, each.state, each.resolved_at) for each in over.alerts] == [
        ("a1", "resolved", 1020)
    ]
    assert [each.id for each in again.alerts] == ["a2"]


def test_a_reminder_is_told_and_is_no_news() -> None:
    """It is kept that it was told, and not that anything has happened."""
    rounds = Rounds()
    rounds.go(10, finding())
    news = rounds.go(110, finding())

    assert happened(news.notifications) == [("reminded", "warning")]
    assert news.transitions == []
    assert [(each.last_notified_at, each.since) for each in news.alerts] == [(1110, 1010)]


def test_alerts_of_one_rule_are_nothing_to_another() -> None:
    """Not even those of the same fingerprint."""
    rounds = Rounds()
    rounds.go(10, finding())
    rounds.go(10, finding(), rule="other")

    assert [each.rule for each in rounds.go(20).alerts] == ["rule"]
    assert len(rounds.board.findings()) == 1


def test_a_silenced_alert_is_told_when_the_silence_ends() -> None:
    """It happens all the same, and is kept; but nobody is told, nor that it fires still."""
    rounds = Rounds()
    rounds.silenced = True
    silenced = rounds.go(10, finding())
    assert (happened(silenced.events), silenced.notifications) == ([("fired", "warning")], [])
    assert (silenced.alerts[0].notified_severity, finish(rounds.board.firing())) == (None, [])
    assert rounds.go(20, finding("critical")).notifications == []

    rounds.silenced = False
    news = rounds.go(30, finding("critical"))

    assert (news.events, happened(news.notifications)) == ([], [("fired", "critical")])
    assert news.notifications[0].at == 1030
    assert [each.notified_severity for each in news.alerts] == ["critical"]


def test_an_alert_that_was_never_told_ends_unheard() -> None:
    """Its end is no news to anyone."""
    rounds = Rounds()
    rounds.silenced = True
    rounds.go(10, finding())
    rounds.silenced = False
    news = rounds.go(20)

    assert (happened(news.events), news.notifications) == ([("resolved", "warning")], [])


def test_the_end_of_an_alert_that_was_told_is_told_in_a_silence() -> None:
    """With the severity that people know of."""
    rounds = Rounds()
    rounds.go(10, finding("warning"))
    rounds.silenced = True
    assert rounds.go(20, finding("critical")).notifications == []
    news = rounds.go(30)

    assert happened(news.events) == [("resolved", "critical")]
    assert happened(news.notifications) == [("resolved", "warning")]
    assert news.notifications[0].alert_id == news.events[0].alert_id


def test_a_change_in_a_silence_is_told_after_it() -> None:
    """From what people know, not from what it was a moment ago."""
    rounds = Rounds()
    rounds.go(10, finding("info"))
    rounds.silenced = True
    rounds.go(20, finding("critical"))
    rounds.silenced = False
    news = rounds.go(30, finding("warning"))

    assert [(each.transition, each.previous) for each in news.events] == [
        ("deescalated", "critical")
    ]
    assert [(each.transition, each.previous) for each in news.notifications] == [
        ("escalated", "info")
    ]


def test_nobody_is_reminded_of_what_somebody_has_seen() -> None:
    """That it gets worse, and that it is over, is told; and reminders when it is taken back."""
    rounds = Rounds()
    rounds.go(10, finding())
    rounds.board.acknowledge("a1", Ack("ada", 1011))
    reminder, worse = rounds.go(110, finding()), rounds.go(120, finding("critical"))
    rounds.board.acknowledge("a1", None)
    rounds.board.acknowledge("unknown", None)
    again, over = rounds.go(220, finding("critical")), rounds.go(230)

    assert (happened(reminder.events), reminder.notifications) == ([("reminded", "warning")], [])
    assert [each.ack for each in worse.alerts] == [Ack("ada", 1011)]
    assert happened([*worse.notifications, *again.notifications, *over.notifications]) == [
        ("escalated", "critical"),
        ("reminded", "critical"),
        ("resolved", "critical"),
    ]


def test_what_fires_is_known_as_told_and_as_found() -> None:
    """What is silenced fires as well, and what waits does not."""
    rounds = Rounds()
    rounds.go(10, finding("warning"), finding(subject="k2", hold_for=60))
    rounds.silenced = True
    rounds.go(20, finding("critical"), finding(subject="k2", hold_for=60), finding(subject="k3"))

    assert happened(finish(rounds.board.firing())) == [("fired", "warning")]
    assert [(each.subject.id, each.severity) for each in rounds.board.findings()] == [
        ("k1", "critical"),
        ("k3", "warning"),
    ]
    assert rounds.board.counts() == {
        ("trouble", "critical", "firing"): 1,
        ("trouble", "warning", "pending"): 1,
        ("trouble", "warning", "firing"): 1,
    }


def test_the_worst_of_several_findings_of_one_alert_counts() -> None:
    """The first among equals, and one without severity least of all."""
    found = [finding(None), finding("info"), finding("critical", value=1), finding("critical")]
    news = Rounds().go(10, *found)

    assert [(each.finding.severity, each.finding.value) for each in news.events] == [
        ("critical", 1)
    ]


@pytest.mark.parametrize("severity", ["awful", 5])
def test_a_round_with_a_finding_that_cannot_be_changes_nothing(severity: Any) -> None:
    """Not even for those that came before it."""
    rounds = Rounds()
    rounds.go(10, finding())
    with pytest.raises((KeyError, ValueError)):
        rounds.go(20, finding("critical"), finding(severity, subject="k2"))

    assert happened(rounds.go(30, finding("critical")).events) == [("escalated", "critical")]


def test_an_alert_goes_on_after_a_restart() -> None:
    """As itself: same id, same times, and nothing is told again."""
    rounds = Rounds()
    records = rounds.go(10, finding()).alerts
    assert rounds.restart(records, 500) == AlertChanges()
    reminded, over = rounds.go(510, finding()), rounds.go(520)

    assert happened(reminded.notifications) == [("reminded", "warning")]
    assert [(each.id, each.fired_at, each.state) for each in over.alerts] == [
        ("a1", 1010, "resolved")
    ]


def test_what_is_not_found_is_held_for_as_long_as_its_rule_looks_back() -> None:
    """After a restart; that it was found again in between makes no difference."""
    rounds = Rounds()
    records = rounds.go(10, finding(window=60)).alerts
    rounds.restart(records, 100)
    assert [rounds.go(now) for now in (110, 159)] == [AlertChanges(), AlertChanges()]
    assert happened(rounds.go(160).events) == [("resolved", "warning")]

    rounds.restart(records, 100)
    rounds.go(110, finding(window=60))
    assert rounds.go(120) == AlertChanges()
    assert happened(rounds.go(160).events) == [("resolved", "warning")]


def test_while_an_alert_is_held_less_proves_nothing() -> None:
    """What counts anew finds less at first, and worse is worse at once."""
    rounds = Rounds()
    rounds.restart(rounds.go(10, finding("warning", window=60)).alerts, 100)

    found = [rounds.go(110, finding(severity, window=60)) for severity in (None, "info")]

    assert [each.events for each in found] == [[], []]
    assert happened(rounds.go(120, finding("critical", window=60)).events) == [
        ("escalated", "critical")
    ]


def test_what_is_held_can_be_let_go() -> None:
    """Then the next round judges it."""
    rounds = Rounds()
    rounds.restart(rounds.go(10, finding(window=3600)).alerts, 100)
    finish(rounds.board.release_held())

    assert happened(rounds.go(110).events) == [("resolved", "warning")]


def test_an_alert_whose_rule_is_gone_is_over() -> None:
    """Whoever has heard of it hears of its end."""
    rounds = Rounds()
    records = rounds.go(10, finding()).alerts
    news = rounds.restart(records, 100, "another")

    assert [(each.id, each.state) for each in news.alerts] == [("a1", "resolved")]
    assert [each.transition for each in news.transitions] == ["resolved"]
    assert happened(news.notifications) == [("resolved", "warning")]


def test_an_alert_whose_rule_is_gone_before_it_was_told_ends_unheard() -> None:
    """Whether it was silenced, or waited still."""
    rounds = Rounds()
    rounds.silenced = True
    records = rounds.go(10, finding(), finding(subject="k2", hold_for=60)).alerts
    news = rounds.restart(records, 100, "another")

    assert news.notifications == []
    assert [each.alert_id for each in news.transitions] == ["a1"]


def test_an_alert_that_has_fired_anew_meanwhile_takes_the_place_of_the_old_one() -> None:
    """While the store could not be read nobody knew of that; it is the same alert to people."""
    rounds = Rounds()
    records = rounds.go(10, finding()).alerts
    rounds.restart([], 100)
    rounds.go(110, finding())
    news = AlertChanges()
    assert rounds.board.resume(records[0], now=120, at=1120, changes=news) is None

    assert [(each.id, each.state) for each in news.alerts] == [("a1", "resolved")]
    assert (news.notifications, news.transitions) == ([], [])
    assert [each.alert_id for each in finish(rounds.board.firing())] == ["a2"]


def test_an_alert_that_cannot_be_read_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """It is said why, and kept as it was."""
    rounds = Rounds()
    (record,) = rounds.go(10, finding()).alerts
    unreadable = replace(record, finding={"type": "trouble"})
    news = rounds.restart([unreadable], 100)

    assert news == AlertChanges(
        alerts=[
            replace(unreadable, state="resolved", resolved_at=1100, resolve_reason="unreadable")
        ]
    )
    assert caplog.messages == [
        "stored alert is invalid, ending it: alert=a1 error=KeyError('value')"
    ]


NOW, AT = 500.0, 1_000_500.0  # the same moment on both clocks


EPISODE = Episode(
    "a1",
    "planned",
    Alert(finding("critical", value=0.5), "firing", 400, 450),
    started_at=1_000_390,
    fired_at=1_000_400,
    notified_severity="warning",
    ack=Ack("ada", 1_000_410, "on it"),
)


whole = st.integers(0, 500).map(float)


severities: st.SearchStrategy[Severity] = st.sampled_from(["info", "warning", "critical"])


@given(
    state=st.sampled_from(["pending", "firing", "recovering"]),
    severity=severities,
    since=whole,
    told=whole,
    told_as=st.none() | severities,
    later=whole,
)
def test_an_episode_goes_on_as_it_was_kept(
    state: Literal["pending", "firing", "recovering"],
    severity: Severity,
    since: float,
    told: float,
    told_as: Severity | None,
    later: float,
) -> None:
    """In a process whose clock began elsewhere, and for which the time in between has passed."""
    alert = Alert(finding(severity, window=60), state, since, told)
    episode = replace(EPISODE, alert=alert, notified_severity=told_as)

    record = record_of(episode, now=NOW, at=AT)
    again = episode_of(record, now=7, at=AT + later)

    passed = 7 - (NOW + later)
    assert again == replace(
        episode, alert=replace(alert, since=since + passed, notified_at=told + passed)
    )
    assert again.held_until == 67


def test_times_are_kept_in_seconds_since_the_epoch() -> None:
    """The monotonic clock means nothing to anyone else."""
    record = record_of(EPISODE, now=NOW, at=AT)

    assert (record.since, record.last_notified_at) == (1_000_400, 1_000_450)
    assert (record.started_at, record.fired_at) == (1_000_390, 1_000_400)
    assert (record.resolved_at, record.resolve_reason) == (None, None)


def test_an_episode_that_is_over_is_kept_as_resolved() -> None:
    """With the time at which it was."""
    record = record_of(EPISODE, now=NOW, at=AT, resolve_reason="gone")

    assert (record.state, record.since, record.resolved_at) == ("resolved", AT, AT)
    assert record.resolve_reason == "gone"


def test_a_wall_clock_that_was_set_back_holds_nothing_in_the_future() -> None:
    """What was told an hour ahead was told just now, at the latest."""
    again = episode_of(record_of(EPISODE, now=NOW, at=AT), now=NOW, at=AT - 3600)

    assert (again.alert.since, again.alert.notified_at) == (NOW, NOW)


def test_what_is_over_does_not_go_on() -> None:
    """Nor does what was kept with two severities."""
    record = record_of(EPISODE, now=NOW, at=AT)

    for wrong in (
        record_of(EPISODE, now=NOW, at=AT, resolve_reason="gone"),
        replace(record, severity="info"),
    ):
        with pytest.raises(ValueError, match=r"^record must be of an open alert, got "):
            episode_of(wrong, now=NOW, at=AT)


@pytest.mark.parametrize("kept", [{}, {"type": "t"}, {"subject": None, "value": 1}])
def test_a_finding_that_is_none_cannot_be_read(kept: dict[str, object]) -> None:
    """Somebody, or another version, has put it there."""
    record = replace(record_of(EPISODE, now=NOW, at=AT), finding=kept)

    with pytest.raises((KeyError, TypeError, ValueError)):
        episode_of(record, now=NOW, at=AT)


@pytest.mark.parametrize(
    ("state", "fires"), [("pending", False), ("firing", True), ("recovering", True)]
)
def test_an_episode_fires_from_its_beginning_to_its_end(
    state: Literal["pending", "firing", "recovering"], fires: bool
) -> None:
    """What recovers is not over."""
    assert replace(EPISODE, alert=replace(EPISODE.alert, state=state)).fires == fires


def test_an_event_names_its_episode() -> None:
    """The severity before is told of a change, and of nothing else."""
    event = EPISODE.event("escalated", AT, "warning")

    assert (event.alert_id, event.fired_at, event.at) == ("a1", 1_000_400, AT)
    assert (event.finding, event.previous) == (EPISODE.alert.finding, "warning")
    assert EPISODE.event("deescalated", AT, "warning").previous == "warning"
    assert EPISODE.event("fired", AT, "warning").previous is None


def test_what_fires_is_told_anew_as_it_was_told() -> None:
    """With what is found now, but no worse than people know: that would be news."""
    event = EPISODE.as_notified()

    assert (event.transition, event.at, event.alert_id) == ("fired", 1_000_400, "a1")
    assert event.finding == finding("warning", value=0.5)


def test_an_alert_that_never_fired_is_told_since_it_was_found() -> None:
    """There is no other time."""
    assert replace(EPISODE, fired_at=None).as_notified().at == 1_000_390


@pytest.mark.parametrize(("value", "kept"), [(0.5, 0.5), (math.nan, 0), (math.inf, 0)])
def test_a_transition_is_kept_with_its_numbers(value: float, kept: float) -> None:
    """Those that no database takes are none."""
    alert = replace(EPISODE.alert, finding=finding("critical", value=value))
    record = replace(EPISODE, alert=alert).transition("fired", AT)

    assert (record.alert_id, record.fingerprint) == ("a1", "trouble:key:k1")
    assert (record.transition, record.severity) == ("fired", "critical")
    assert (record.value, record.at) == (kept, AT)


@pytest.mark.parametrize(
    ("told_as", "severity", "happened", "told"),
    [
        # Nobody has heard of it: it is new to them, whatever has happened to it.
        (None, "warning", "fired", "fired"),
        (None, "critical", "escalated", "fired"),
        (None, "info", "deescalated", "fired"),
        (None, "warning", "reminded", "fired"),
        (None, "warning", None, "fired"),
        (None, "warning", "resolved", None),
        # They know of it as it is.
        ("warning", "warning", None, None),
        ("warning", "warning", "reminded", "reminded"),
        ("warning", "warning", "resolved", "resolved"),
        ("warning", "warning", "escalated", None),
        ("critical", "critical", "deescalated", None),
        # They know of it as better, or as worse, than it is.
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
def test_what_is_news_depends_on_what_was_heard(
    told_as: Severity | None,
    severity: Severity,
    happened: Transition | None,
    told: Transition | None,
) -> None:
    """An end is told to those who know of the alert; else what differs from what they know."""
    assert notification_for(told_as, severity, happened) == told


notified_severities: st.SearchStrategy[Severity] = st.sampled_from(list(RANKS))


@given(
    first=notified_severities,
    rounds=st.lists(
        st.tuples(st.none() | notified_severities, st.booleans(), st.booleans()), max_size=20
    ),
    silent=st.booleans(),
    ends=st.booleans(),
)
def test_whoever_hears_of_an_alert_hears_of_its_end_once(
    first: Severity,
    rounds: list[tuple[Severity | None, bool, bool]],
    silent: bool,
    ends: bool,
) -> None:
    """And who was always kept from hearing hears nothing; the last that is heard is so."""
    told_as: Severity | None = None
    severity = first
    heard: list[Transition] = []
    for change, reminded, silenced in [(first, False, silent), *rounds]:
        happened: Transition | None = "reminded" if reminded else None
        severity = change or severity
        told = notification_for(told_as, severity, happened)
        if told is not None and not silenced:
            heard.append(told)
            told_as = severity
        assert silenced or told_as == severity
    end = notification_for(told_as, severity, "resolved") if ends else None
    heard += [end] if end is not None else []

    assert heard.count("fired") == (told_as is not None)
    assert heard[:1] in ([], ["fired"])
    assert heard.count("resolved") == (ends and told_as is not None)
    assert "resolved" not in heard[:-1]
