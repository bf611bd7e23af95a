"""Life cycle of an alert: properties of every history, and each transition."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import NAMES, Alert, Transition, labels_of, step
from tokenpulse_mw.alerts.rules.rule import Steps, severity_for

from .findings import finding as finding_of_key

RANK = {"info": 0, "warning": 1, "critical": 2}


STEPS: Steps = ((0.5, "critical"), (0.25, "warning"), (0, "info"))


RATIO = 0.8  # of a step; an alert keeps its severity down to it


Seen = Literal["nothing", "band", "info", "warning", "critical"]  # band: severity None


class Evaluation(NamedTuple):
    """One evaluation: the finding, the alert before and after it, and the transition."""

    now: int
    seen: Seen
    before: Alert | None
    after: Alert | None
    transition: Transition | None

    @property
    def bad(self) -> bool:
        """True if the finding has a severity."""
        return self.seen in RANK


class Life(NamedTuple):
    """The evaluations of an alert, and its times."""

    hold_for: int
    keep_firing: int
    cooldown: int
    evaluations: list[Evaluation]


def finding(severity: Severity | None = "warning", **fields: Any) -> Finding:
    """Return a finding with the default window."""
    return Finding(
        type="test", subject=Subject("key", "k1"), severity=severity, title="", message="", **fields
    )


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Draw a life of up to 50 evaluations, at most 90 seconds apart."""
    hold_for, keep_firing = draw(st.integers(0, 60)), draw(st.integers(0, 60))
    cooldown = draw(st.integers(1, 120))
    kinds: list[Seen] = ["nothing", "band", "info", "warning", "critical"]
    life = Life(hold_for, keep_firing, cooldown, [])
    alert: Alert | None = None
    now = 0
    for gap, seen in draw(
        st.lists(st.tuples(st.integers(0, 90), st.sampled_from(kinds)), max_size=50)
    ):
        now += gap
        current = None
        if seen != "nothing":
            severity = None if seen == "band" else seen
            current = finding(severity, hold_for=hold_for, keep_firing=keep_firing)
        before = alert
        alert, transition = step(before, current, now=now, cooldown=cooldown)
        life.evaluations.append(Evaluation(now, seen, before, alert, transition))
    return life


def fires(alert: Alert | None) -> bool:
    """Return True if an alert has fired and is not resolved."""
    return alert is not None and alert.state != "pending"


@given(lives())
def test_every_transition_has_its_cause(life: Life) -> None:
    """The state or the severity has changed, or the cooldown has passed."""
    last_transition_at = 0
    for evaluation in life.evaluations:
        match evaluation.transition:
            case "fired":
                assert (fires(evaluation.before), fires(evaluation.after)) == (False, True)
            case "resolved":
                assert (fires(evaluation.before), evaluation.after) == (True, None)
            case "escalated" | "deescalated":
                assert evaluation.before is not None
                assert evaluation.after is not None
                assert evaluation.before.finding.severity != evaluation.after.finding.severity
            case "reminded":
                assert evaluation.now - last_transition_at >= life.cooldown
            case None:
                assert fires(evaluation.before) == fires(evaluation.after)
        if evaluation.transition:
            last_transition_at = evaluation.now


@given(lives())
def test_fired_and_resolved_alternate(life: Life) -> None:
    """Each episode fires once, and is resolved once before the next one fires."""
    transitions = [evaluation.transition for evaluation in life.evaluations]
    ends = [transition for transition in transitions if transition in ("fired", "resolved")]

    assert ends[:1] in ([], ["fired"])
    assert all(one != other for one, other in pairwise(ends))
    balance = 0
    for evaluation in life.evaluations:
        balance += {"fired": 1, "resolved": -1}.get(evaluation.transition or "", 0)
        assert balance == fires(evaluation.after)


@given(lives())
def test_change_of_severity_is_a_transition_at_once(life: Life) -> None:
    """A firing alert escalates or deescalates in the evaluation that finds the change."""
    severity: Seen = "info"
    for evaluation in life.evaluations:
        if fires(evaluation.before) and evaluation.bad:
            change = RANK[evaluation.seen] - RANK[severity]
            expected = "escalated" if change > 0 else "deescalated" if change < 0 else None
            transition = evaluation.transition
            assert (transition if transition != "reminded" else None) == expected
        else:
            assert evaluation.transition not in ("escalated", "deescalated", "reminded")
        severity = evaluation.seen if evaluation.bad else severity


def evaluate_values(
    alert: Alert | None, values: list[float]
) -> list[tuple[Alert, Transition | None]]:
    """Evaluate each value against STEPS; return the alert and the transition each time."""
    results = []
    for value in values:
        severity, keeps = severity_for(value, STEPS), severity_for(value, STEPS, RATIO)
        current = finding(severity, keeps=keeps, value=value)
        alert, transition = step(alert, current, now=0, cooldown=60)
        assert alert is not None
        results.append((alert, transition))
    return results


@given(st.sampled_from([0.25, 0.5]), st.lists(st.floats(0, 0.99)))
def test_value_that_swings_around_a_step_escalates_once(least: float, swings: list[float]) -> None:
    """Between 80 % of the step that it has reached and the next step nothing changes."""
    values = [least * (RATIO + swing * (2 - RATIO)) for swing in swings]

    (_, first), (_, second), *others = evaluate_values(None, [0.1, least, *values])

    assert (first, second) == ("fired", "escalated")
    assert {transition for _, transition in others} <= {None}


@given(st.lists(st.floats(0, 1), min_size=1))
def test_alert_escalates_at_once_and_deescalates_with_hysteresis(values: list[float]) -> None:
    """The severity is never below the finding's, and drops only below 80 % of a step."""
    before: Alert | None = None
    for value in values:
        ((alert, transition),) = evaluate_values(before, [value])
        assert alert.finding.rank >= finding(severity_for(value, STEPS)).rank
        if transition == "deescalated":
            assert before is not None
            least = {severity: least for least, severity in STEPS}
            assert alert.finding.severity is not None
            assert before.finding.severity is not None
            assert value < least[before.finding.severity] * RATIO
            assert value >= least[alert.finding.severity] * RATIO
        before = alert


def test_alert_of_a_rule_without_hysteresis_deescalates_at_once() -> None:
    """A finding without `keeps` replaces the severity."""
    alert = Alert(finding("critical"), "firing", 0, 0)

    assert step(alert, finding("info"), now=0, cooldown=60)[1] == "deescalated"


@pytest.mark.parametrize(
    ("first", "second", "severity"),
    [("", "claude", "warning"), ("claude", "gemini", "critical"), ("claude", "claude", "info")],
)
def test_alert_keeps_its_first_provider(first: str, second: str, severity: Severity) -> None:
    """The provider of a credential is a label, so a later one would be another alert."""

    def of(provider: str, severity: Severity) -> Finding:
        return Finding(
            type="provider_down",
            subject=Subject("apikey", "c1", "claude-prod"),
            severity=severity,
            title="",
            message="",
            metadata={"provider": provider, "failures": 10},
        )

    alert, _ = step(None, of(first, "warning"), now=0, cooldown=60)
    alert, _ = step(alert, of(second, severity), now=1, cooldown=60)

    assert alert is not None
    assert alert.finding == of(first, severity)


@given(lives())
def test_alert_resolves_after_keep_firing_without_a_finding(life: Life) -> None:
    """The first evaluation at or after that time resolves it; any finding restarts the time."""
    gone_since: int | None = None
    for evaluation in life.evaluations:
        gone_since = None if evaluation.seen != "nothing" else gone_since or evaluation.now
        over = gone_since is not None and evaluation.now - gone_since >= life.keep_firing
        assert (evaluation.transition == "resolved") == (fires(evaluation.before) and over)


@given(lives())
def test_alert_fires_after_hold_for_with_a_finding(life: Life) -> None:
    """The first evaluation at or after that time fires it; without a finding it is dropped."""
    bad_since: int | None = None
    for evaluation in life.evaluations:
        if not fires(evaluation.before):
            if evaluation.bad:
                bad_since = evaluation.now if bad_since is None else bad_since
                due = evaluation.now - bad_since >= life.hold_for
                assert (evaluation.transition == "fired") == due
            else:
                assert (evaluation.after, evaluation.transition) == (None, None)
        if not evaluation.bad or fires(evaluation.after):
            bad_since = None


@given(lives())
def test_unchanged_alert_is_reminded_after_each_cooldown(life: Life) -> None:
    """The first evaluation at least `cooldown` after the last transition is a reminder."""
    last_transition_at = 0
    for evaluation in life.evaluations:
        changed = evaluation.transition in ("escalated", "deescalated")
        if fires(evaluation.before) and evaluation.bad and not changed:
            due = evaluation.now - last_transition_at >= life.cooldown
            assert (evaluation.transition == "reminded") == due
        if evaluation.transition:
            last_transition_at = evaluation.now


def test_finding_without_hold_for_fires_at_once() -> None:
    """The first evaluation fires the alert."""
    current = finding()

    assert step(None, current, now=5, cooldown=60) == (Alert(current, "firing", 5, 5), "fired")


def test_finding_with_hold_for_is_pending_first() -> None:
    """The alert is pending since the first finding, and has the last one."""
    first, second = finding("info", hold_for=30), finding("critical", hold_for=30)

    pending, transition = step(None, first, now=5, cooldown=60)
    assert (pending, transition) == (Alert(first, "pending", 5, 5), None)
    pending, transition = step(pending, second, now=34, cooldown=60)
    assert (pending, transition) == (Alert(second, "pending", 5, 34), None)
    assert step(pending, second, now=35, cooldown=60) == (Alert(second, "firing", 35, 35), "fired")


def test_finding_without_severity_opens_no_alert() -> None:
    """A value between the resolve and the fire threshold does not fire."""
    assert step(None, finding(None), now=0, cooldown=60) == (None, None)


def test_finding_without_severity_leaves_a_firing_alert_unchanged() -> None:
    """Such a finding causes no reminder either."""
    alert = Alert(finding("critical"), "firing", 0, 0)

    assert step(alert, finding(None), now=1000, cooldown=60) == (alert, None)


def test_recovering_alert_that_is_found_again_fires_without_a_transition() -> None:
    """A gap shorter than `keep_firing` is not reported."""
    current = finding(keep_firing=30)
    firing = Alert(current, "firing", 0, 0)

    recovering, transition = step(firing, None, now=10, cooldown=60)
    assert (recovering, transition) == (Alert(current, "recovering", 10, 0), None)
    assert step(recovering, current, now=39, cooldown=60) == (Alert(current, "firing", 39, 0), None)
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
def test_fingerprint_has_type_metric_and_subject(parts: dict[str, Any], fingerprint: str) -> None:
    """The format is that of the seed; other fields are not part of the fingerprint."""
    spike = Finding(severity="info", title="t", message="m", value=1, **parts)

    assert spike.fingerprint == fingerprint


def test_rank_orders_severities() -> None:
    """A finding without severity has the lowest rank."""
    severities: tuple[Severity | None, ...] = (None, "info", "warning", "critical")

    assert [finding(severity).rank for severity in severities] == [-1, 0, 1, 2]


def test_default_window_is_a_minute() -> None:
    """A restored alert is held for the window of its rule."""
    assert finding().window == 60


def test_labels_have_every_name() -> None:
    """A label without a value is empty, so that matchers can compare with it."""
    labels = labels_of(finding_of_key("critical"), "warning")

    assert tuple(labels) == NAMES
    assert labels == {
        "alertname": "trouble",
        "severity": "warning",
        "subject_kind": "key",
        "subject_id": "k1",
        "metric": "",
        "provider": "",
    }


def test_label_of_a_missing_severity_is_empty() -> None:
    """The label is not the text "None"."""
    assert labels_of(finding_of_key(None), None)["severity"] == ""


@pytest.mark.parametrize(
    ("subject", "metadata", "provider"),
    [
        (Subject("provider", "claude", "Claude"), {}, "claude"),
        (Subject("apikey", "c1", "claude-prod"), {"provider": "claude"}, "claude"),
        (Subject("apikey", "c1", "claude-prod"), {}, ""),
        (Subject("key", "k1", "claude"), {}, ""),
        (Subject("key", "k1"), {"provider": "gemini"}, "gemini"),
        (Subject("key", "k1"), {"provider": 5}, ""),
        (Subject("provider", "claude"), {"provider": "gemini"}, "claude"),
    ],
)
def test_label_provider_is_from_the_subject_or_the_metadata(
    subject: Subject, metadata: dict[str, Any], provider: str
) -> None:
    """A name is never a label, since it may change while the alert fires."""
    current = Finding(
        type="t", subject=subject, severity="info", title="", message="", metadata=metadata
    )

    assert labels_of(current, "info")["provider"] == provider


def test_metric_is_a_label() -> None:
    """The label distinguishes the traffic spikes of one tenant."""
    assert labels_of(finding(metric="master_rpm"), "info")["metric"] == "master_rpm"
