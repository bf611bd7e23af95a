"""The life cycle of an alert: what holds for every history, and its transitions one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.findings import finding as found
from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import NAMES, Alert, Transition, labels_of, step
from tokenpulse_mw.alerts.rules.rule import Steps, severity_for

RANK = {"info": 0, "warning": 1, "critical": 2}


STEPS: Steps = ((0.5, "critical"), (0.25, "warning"), (0, "info"))


RATIO = 0.8  # of a step, to which an alert keeps its severity


Seen = Literal["nothing", "band", "info", "warning", "critical"]  # band: severity None


class Round(NamedTuple):
    """One round of an alert's life: what the rule saw, and what came of it."""

    now: int
    seen: Seen
    before: Alert | None
    after: Alert | None
    told: Transition | None

    @property
    def bad(self) -> bool:
        """Whether the rule saw something bad enough to fire."""
        return self.seen in RANK


class Life(NamedTuple):
    """An alert's life under one choice of times."""

    hold_for: int
    keep_firing: int
    cooldown: int
    rounds: list[Round]


def finding(severity: Severity | None = "warning", **fields: Any) -> Finding:
    """What a rule might find."""
    return Finding(
        type="test", subject=Subject("key", "k1"), severity=severity, title="", message="", **fields
    )


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Lives of up to fifty rounds, a few seconds to a few minutes apart."""
    hold_for, keep_firing = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    cooldown = draw(st.integers(1, 120))
    seen: list[Seen] = ["nothing", "band", "info", "warning", "critical"]
    life = Life(hold_for, keep_firing, cooldown, [])
    alert: Alert | None = None
    now = 0
    for gap, each in draw(
        st.lists(st.tuples(st.integers(0, 90), st.sampled_from(seen)), max_size=50)
    ):
        now += gap
        found = None
        if each != "nothing":
            severity = None if each == "band" else each
            found = finding(severity, hold_for=hold_for, keep_firing=keep_firing)
        before = alert
        alert, told = step(before, found, now=now, cooldown=cooldown)
        life.rounds.append(Round(now, each, before, alert, told))
    return life


def fires(alert: Alert | None) -> bool:
    """Whether an alert has been told as fired and not as resolved."""
    return alert is not None and alert.state != "pending"


@given(lives())
def test_nothing_is_told_but_a_transition_or_a_reminder_that_is_due(life: Life) -> None:
    """Each event goes with a change of state or of severity, or with the cooldown being over."""
    told_at = 0
    for each in life.rounds:
        match each.told:
            case "fired":
                assert (fires(each.before), fires(each.after)) == (False, True)
            case "resolved":
                assert (fires(each.before), each.after) == (True, None)
            case "escalated" | "deescalated":
                assert each.before is not None
                assert each.after is not None
                assert each.before.finding.severity != each.after.finding.severity
            case "reminded":
                assert each.now - told_at >= life.cooldown
            case None:
                assert fires(each.before) == fires(each.after)
        told_at = each.now if each.told else told_at


@given(lives())
def test_an_episode_is_fired_once_and_resolved_once(life: Life) -> None:
    """Between two absences of the alert one `fired` comes before one `resolved`, and no other."""
    ends = [each.told for each in life.rounds if each.told in ("fired", "resolved")]

    assert ends[:1] in ([], ["fired"])
    assert all(one != other for one, other in pairwise(ends))
    told = 0
    for each in life.rounds:
        told += {"fired": 1, "resolved": -1}.get(each.told or "", 0)
        assert told == fires(each.after)


@given(lives())
def test_a_change_of_severity_is_told_at_once(life: Life) -> None:
    """While the alert fires, worse is told as escalated and better as deescalated, whenever."""
    severity: Seen = "info"
    for each in life.rounds:
        if fires(each.before) and each.bad:
            change = RANK[each.seen] - RANK[severity]
            direction = "escalated" if change > 0 else "deescalated" if change < 0 else None
            assert (each.told if each.told != "reminded" else None) == direction
        else:
            assert each.told not in ("escalated", "deescalated", "reminded")
        severity = each.seen if each.bad else severity


def shares(alert: Alert | None, values: list[float]) -> list[tuple[Alert, Transition | None]]:
    """An alert of an error rate that takes these values, round by round, and what is told of it."""
    rounds = []
    for value in values:
        found = finding(
            severity_for(value, STEPS), keeps=severity_for(value, STEPS, RATIO), value=value
        )
        alert, told = step(alert, found, now=0, cooldown=60)
        assert alert is not None
        rounds.append((alert, told))
    return rounds


@given(st.sampled_from([0.25, 0.5]), st.lists(st.floats(0, 0.99)))
def test_a_share_that_swings_around_a_step_is_told_once(least: float, swings: list[float]) -> None:
    """Between 80 % of the step that it has reached, and the next one."""
    values = [least * (RATIO + each * (2 - RATIO)) for each in swings]

    (_, fired), (_, escalated), *others = shares(None, [0.1, least, *values])

    assert (fired, escalated) == ("fired", "escalated")
    assert {told for _, told in others} <= {None}


@given(st.lists(st.floats(0, 1), min_size=1))
def test_an_alert_gets_worse_at_once_and_better_only_well_below(values: list[float]) -> None:
    """It is never less bad than what was found, and leaves no step that it is still near."""
    before: Alert | None = None
    for value in values:
        ((alert, told),) = shares(before, [value])
        stands = alert.finding
        assert stands.rank >= finding(severity_for(value, STEPS)).rank
        if told == "deescalated":
            assert before is not None
            left = {severity: least for least, severity in STEPS}
            assert stands.severity is not None
            assert before.finding.severity is not None
            assert value < left[before.finding.severity] * RATIO
            assert value >= left[stands.severity] * RATIO
        before = alert


def test_where_a_rule_says_nothing_of_it_an_alert_gets_better_at_once() -> None:
    """Only who has steps can tell how far below one it is."""
    alert = Alert(finding("critical"), "firing", 0, 0)

    assert step(alert, finding("info"), now=0, cooldown=60)[1] == "deescalated"


@given(lives())
def test_an_alert_resolves_when_keep_firing_has_passed_without_a_finding(life: Life) -> None:
    """Neither sooner nor later; a finding that is not bad enough to fire starts it anew too."""
    gone_since: int | None = None
    for each in life.rounds:
        gone_since = None if each.seen != "nothing" else gone_since or each.now
        over = gone_since is not None and each.now - gone_since >= life.keep_firing
        assert (each.told == "resolved") == (fires(each.before) and over)


@given(lives())
def test_an_alert_fires_when_it_has_lasted_for_hold_for(life: Life) -> None:
    """Neither sooner nor later; a pending alert that goes away is never told."""
    bad_since: int | None = None
    for each in life.rounds:
        if not fires(each.before):
            if each.bad:
                bad_since = each.now if bad_since is None else bad_since
                assert (each.told == "fired") == (each.now - bad_since >= life.hold_for)
            else:
                assert (each.after, each.told) == (None, None)
        if not each.bad or fires(each.after):
            bad_since = None


@given(lives())
def test_an_alert_that_lasts_is_reminded_of_after_each_cooldown(life: Life) -> None:
    """Never sooner than `cooldown` after the last event, and in the first round from then on."""
    told_at = 0
    for each in life.rounds:
        if fires(each.before) and each.bad and each.told not in ("escalated", "deescalated"):
            assert (each.told == "reminded") == (each.now - told_at >= life.cooldown)
        told_at = each.now if each.told else told_at


def test_a_finding_without_hold_for_fires_in_its_first_round() -> None:
    """What need not last is told as soon as it is found."""
    found = finding()

    assert step(None, found, now=5, cooldown=60) == (Alert(found, "firing", 5, 5), "fired")


def test_a_finding_that_must_last_is_pending_first() -> None:
    """The alert waits since it was first found, and holds what was found last."""
    first, second = finding("info", hold_for=30), finding("critical", hold_for=30)

    pending, told = step(None, first, now=5, cooldown=60)
    assert (pending, told) == (Alert(first, "pending", 5, 5), None)
    pending, told = step(pending, second, now=34, cooldown=60)
    assert (pending, told) == (Alert(second, "pending", 5, 34), None)
    assert step(pending, second, now=35, cooldown=60) == (Alert(second, "firing", 35, 35), "fired")


def test_without_an_alert_what_is_not_bad_enough_to_fire_starts_none() -> None:
    """A finding in the band between the thresholds is nothing yet."""
    assert step(None, finding(None), now=0, cooldown=60) == (None, None)


def test_an_alert_keeps_the_severity_it_had_while_a_finding_has_none() -> None:
    """In the band between the thresholds an alert stays as it is, and is not reminded of."""
    alert = Alert(finding("critical"), "firing", 0, 0)

    assert step(alert, finding(None), now=1000, cooldown=60) == (alert, None)


def test_an_alert_that_comes_back_while_recovering_is_the_same_alert() -> None:
    """A short gap is told to no one."""
    found = finding(keep_firing=30)
    firing = Alert(found, "firing", 0, 0)

    recovering, told = step(firing, None, now=10, cooldown=60)
    assert (recovering, told) == (Alert(found, "recovering", 10, 0), None)
    assert step(recovering, found, now=39, cooldown=60) == (Alert(found, "firing", 39, 0), None)
    assert step(recovering, None, now=39, cooldown=60) == (recovering, None)
    assert step(recovering, None, now=40, cooldown=60) == (None, "resolved")


@pytest.mark.parametrize(
    ("parts", "fingerprint"),
    [
        ({"type": "error_spike", "subject": Subject("key", "k1")}, "error_spike:key:k1"),
        ({"type": "rate_limit", "subject": Subject("system", "0", "all")}, "rate_limit:system:0"),
        (
            {"type": "traffic_spike", "metric": "master_rpm", "subject": Subject("master", "acme")},
            "traffic_spike:master_rpm:master:acme",
        ),
    ],
)
def test_a_fingerprint_is_the_seeds(parts: dict[str, Any], fingerprint: str) -> None:
    """Type, metric where there is one, and whom it is about; nothing that changes."""
    found = Finding(severity="info", title="t", message="m", value=1, **parts)

    assert found.fingerprint == fingerprint


def test_severities_are_ranked() -> None:
    """From info to critical; none is below all of them."""
    severities: tuple[Severity | None, ...] = (None, "info", "warning", "critical")

    assert [finding(each).rank for each in severities] == [-1, 0, 1, 2]


def test_a_rule_that_does_not_say_looks_back_for_a_minute() -> None:
    """That is how long an alert of before a restart is held where nothing is found of it."""
    assert finding().window == 60


def test_every_alert_has_every_label() -> None:
    """Those that it has not are empty, so that a matcher can ask for that."""
    labels = labels_of(found("critical"), "warning")

    assert tuple(labels) == NAMES
    assert labels == {
        "alertname": "trouble",
        "severity": "warning",
        "subject_kind": "key",
        "subject_id": "k1",
        "metric": "",
        "provider": "",
    }


def test_an_alert_without_severity_has_an_empty_one() -> None:
    """None is no text."""
    assert labels_of(found(None), None)["severity"] == ""


@pytest.mark.parametrize(
    ("subject", "metadata", "provider"),
    [
        (Subject("provider", "claude", "Claude"), {}, "claude"),
        (Subject("apikey", "c1", "claude"), {}, "claude"),
        (Subject("key", "k1", "claude"), {}, ""),
        (Subject("key", "k1"), {"provider": "gemini"}, "gemini"),
        (Subject("key", "k1"), {"provider": 5}, ""),
        (Subject("provider", "claude"), {"provider": "gemini"}, "claude"),
    ],
)
def test_the_provider_is_whom_it_is_about_or_what_the_rule_says(
    subject: Subject, metadata: dict[str, Any], provider: str
) -> None:
    """A credential is named for its provider; of others only the rule can know."""
    found = Finding(
        type="t", subject=subject, severity="info", title="", message="", metadata=metadata
    )

    assert labels_of(found, "info")["provider"] == provider


def test_a_metric_is_a_label() -> None:
    """Spikes of one master are told apart by it."""
    assert labels_of(finding(metric="master_rpm"), "info")["metric"] == "master_rpm"
