"""Episodes: how an alert is told, how it is kept, and how it goes on in another process."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.findings import finding
from tokenpulse_mw.alerts import Severity
from tokenpulse_mw.alerts.episode import Episode, episode_of, record_of
from tokenpulse_mw.alerts.lifecycle import Alert
from tokenpulse_mw.alerts.store import Ack

NOW, AT = 500.0, 1_000_500.0  # the same moment on both clocks

EPISODE = Episode(
    "a1",
    "planned",
    Alert(finding("critical", value=0.5), "firing", 400, 450),
    started_at=1_000_390,
    fired_at=1_000_400,
    told_as="warning",
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
    episode = replace(EPISODE, alert=alert, told_as=told_as)

    record = record_of(episode, now=NOW, at=AT)
    again = episode_of(record, now=7, at=AT + later)

    passed = 7 - (NOW + later)
    assert again == replace(episode, alert=replace(alert, since=since + passed, told=told + passed))
    assert again.held_until == 67


def test_times_are_kept_in_seconds_since_the_epoch() -> None:
    """The monotonic clock means nothing to anyone else."""
    record = record_of(EPISODE, now=NOW, at=AT)

    assert (record.since, record.told) == (1_000_400, 1_000_450)
    assert (record.started_at, record.fired_at) == (1_000_390, 1_000_400)
    assert (record.resolved_at, record.resolve_reason) == (None, None)


def test_an_episode_that_is_over_is_kept_as_resolved() -> None:
    """With the time at which it was."""
    record = record_of(EPISODE, now=NOW, at=AT, over="gone")

    assert (record.state, record.since, record.resolved_at) == ("resolved", AT, AT)
    assert record.resolve_reason == "gone"


def test_a_wall_clock_that_was_set_back_holds_nothing_in_the_future() -> None:
    """What was told an hour ahead was told just now, at the latest."""
    again = episode_of(record_of(EPISODE, now=NOW, at=AT), now=NOW, at=AT - 3600)

    assert (again.alert.since, again.alert.told) == (NOW, NOW)


def test_what_is_over_does_not_go_on() -> None:
    """Nor does what was kept with two severities."""
    record = record_of(EPISODE, now=NOW, at=AT)

    for wrong in (
        record_of(EPISODE, now=NOW, at=AT, over="gone"),
        replace(record, severity="info"),
    ):
        with pytest.raises(ValueError, match=r"^an alert that goes on is not "):
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
    event = EPISODE.as_told()

    assert (event.transition, event.at, event.alert_id) == ("fired", 1_000_400, "a1")
    assert event.finding == finding("warning", value=0.5)


def test_an_alert_that_never_fired_is_told_since_it_was_found() -> None:
    """There is no other time."""
    assert replace(EPISODE, fired_at=None).as_told().at == 1_000_390


@pytest.mark.parametrize(("value", "kept"), [(0.5, 0.5), (math.nan, 0), (math.inf, 0)])
def test_a_transition_is_kept_with_its_numbers(value: float, kept: float) -> None:
    """Those that no database takes are none."""
    alert = replace(EPISODE.alert, finding=finding("critical", value=value))
    record = replace(EPISODE, alert=alert).transition("fired", AT)

    assert (record.alert_id, record.fingerprint) == ("a1", "trouble:key:k1")
    assert (record.transition, record.severity) == ("fired", "critical")
    assert (record.value, record.at) == (kept, AT)
