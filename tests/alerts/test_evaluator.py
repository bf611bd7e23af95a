"""Evaluator and RuleSet: from traffic to alerts, without clock and I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Rule, Subject, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.evaluator import Evaluator, RuleSet, check_distinct
from tokenpulse_mw.alerts.lifecycle import Alert
from tokenpulse_mw.alerts.steps import STEP, finish
from tokenpulse_mw.alerts.store import AlertRecord
from tokenpulse_mw.alerts.tracker import Episode, record_of

from .exchanges import exchange
from .findings import FixedRule, finding, never_silenced
from .observed_traffic import ObservedTraffic


def evaluator_of(*rules: Rule, reported: list[str] | None = None) -> Evaluator:
    """Return an evaluator without silences; errors are added to `reported`."""
    errors = [] if reported is None else reported

    def report(component: str, error: Exception) -> None:
        errors.append(f"{component}: {type(error).__name__}")

    evaluator = Evaluator(
        RuleSet(rules, interval=60, report=report),
        Thresholds(),
        cooldown=300,
        max_subjects=5,
        bucket_seconds=5,
        is_silenced=never_silenced,
        report=report,
    )
    evaluator.traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    return evaluator


def default_evaluator(times: int = 0, **fields: Any) -> Evaluator:
    """Return an evaluator of the default rules that has seen `times` exchanges with `fields`."""
    evaluator = evaluator_of(*default_rules())
    observe(evaluator, times, **fields)
    return evaluator


def observe(evaluator: Evaluator, times: int = 1, *, now: float = 0, **fields: Any) -> None:
    """Let `times` exchanges end at `now`."""
    assert isinstance(evaluator.traffic, ObservedTraffic)
    evaluator.traffic.observe_all([exchange(**fields) for _ in range(times)], now)


def evaluate(evaluator: Evaluator, now: float) -> tuple[list[list[str]], bool]:
    """Return the transitions of an evaluation by rule, and True if no rule failed."""
    evaluator.traffic.advance(now)
    changes, succeeded = finish(evaluator.evaluate(Thresholds(), now, now + 1e9))
    return [[event.transition for event in change.events] for change in changes], succeeded


def dry_run(evaluator: Evaluator, now: float = 1, **chosen: Any) -> dict[str, str | None]:
    """Return the severities that a dry run finds with thresholds, by fingerprint."""
    errors: dict[str, Exception] = {}
    evaluator.traffic.advance(now)
    findings = finish(evaluator.dry_run(Thresholds(**chosen), now, errors.__setitem__))
    assert errors == {}
    return {finding.fingerprint: finding.severity for finding in findings}


def stored_alert(finding: Finding) -> AlertRecord:
    """Return the record of an alert that fired at 0."""
    episode = Episode("a1", "planned", Alert(finding, "firing", 0, 0), 0, 0)
    return record_of(episode, now=0, at=0)


def test_evaluation_advances_the_alerts_of_every_rule() -> None:
    """Each rule has its own alerts."""
    one, other = FixedRule(finding(), name="one"), FixedRule(name="other")
    evaluator = evaluator_of(one, other)

    assert evaluate(evaluator, 0) == ([["fired"], []], True)
    one.findings, other.findings = [], [finding()]
    assert evaluate(evaluator, 60) == ([["resolved"], ["fired"]], True)


def test_evaluation_with_a_failed_rule_did_not_succeed() -> None:
    """A rule that raises or returns an invalid finding is reported; the others are evaluated."""

    def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        raise OSError

    invalid: Any = finding(hold_for="a minute")
    reported: list[str] = []
    rules = broken, FixedRule(invalid, name="odd"), FixedRule(finding())

    assert evaluate(evaluator_of(*rules, reported=reported), 0) == ([["fired"]], False)
    assert reported == ["rule broken: OSError", "rule odd: TypeError"]


def test_findings_are_freed_in_bounded_steps() -> None:
    """Other tasks run while many findings, which no alert needs, are freed."""
    freed: list[int] = [0]

    class Value:
        def __del__(self) -> None:
            freed[-1] += 1

    def rule(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        for number in range(3000):
            yield finding(None, subject=f"k{number}", metadata={"value": Value()})

    for _ in evaluator_of(rule, FixedRule(finding())).evaluate(Thresholds(), 0, 1e9):
        freed += [0]

    assert sum(freed) == 3000
    assert max(freed) <= 20 * STEP


def test_counts_between_two_evaluations_are_evaluated_once() -> None:
    """Each evaluation starts these counts from zero."""
    evaluator = default_evaluator(1, tenant="acme", limited=True)

    transitions = [evaluate(evaluator, now)[0][0] for now in (1, 61, 961)]

    assert transitions == [["fired"], [], ["resolved"]]


def test_dry_run_changes_nothing() -> None:
    """A later evaluation finds the same."""
    evaluator = default_evaluator(20, api_key="k1", status=500)

    assert dry_run(evaluator) == {"error_spike:key:k1": "critical"}
    assert dry_run(evaluator, error_rate=None) == {}
    assert evaluator.tracker.findings() == []
    assert evaluate(evaluator, 1)[0][1] == ["fired"]


@pytest.mark.parametrize(
    ("chosen", "fingerprint"),
    [
        ({"global_qps": 2}, "traffic_spike:global_qps:system:0"),
        ({"master_rpm": 10}, "traffic_spike:master_rpm:master:acme"),
        ({"master_rpd": 10}, "traffic_spike:master_rpd:master:acme"),
        ({"provider_429_rpm": 5}, "rate_limit_exceeded:provider:claude"),
    ],
)
def test_dry_run_uses_the_thresholds_it_gets(chosen: dict[str, Any], fingerprint: str) -> None:
    """Lower thresholds find alerts in traffic that was counted with higher ones."""
    evaluator = default_evaluator(10, tenant="acme", provider="claude")
    observe(evaluator, 10, tenant="acme", provider="claude", status=429)
    assert dry_run(evaluator, provider_429_rpm=None) == {}

    assert list(dry_run(evaluator, **({"provider_429_rpm": None} | chosen))) == [fingerprint]


def test_dry_run_inhibits_findings_that_an_outage_explains() -> None:
    """Inhibited findings have no severity, as in an evaluation."""
    evaluator = default_evaluator(20, api_key="k1", provider="claude", status=502)

    assert dry_run(evaluator) == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
        "provider_down:provider:claude": "critical",
    }


def test_rule_resumes_the_findings_of_restored_alerts() -> None:
    """An invalid record is resolved and not passed to the rule."""

    class Resuming(FixedRule):
        def resume(self, traffic: Traffic, finding: Finding) -> None:
            self.findings.append(finding)

    rule = Resuming()
    unreadable = stored_alert(finding(subject="k2"))
    unreadable.finding.clear()
    records = [stored_alert(finding()), unreadable]
    (changes,) = finish(evaluator_of(rule).resume(records, 10, 10, complete_since=0))

    assert rule.findings == [finding()]
    assert [alert.resolve_reason for alert in changes.alerts] == ["unreadable"]


def test_new_thresholds_release_held_alerts() -> None:
    """The next evaluation resolves a restored alert that is no longer found."""
    evaluator = evaluator_of(FixedRule())
    finish(evaluator.resume([stored_alert(finding(window=3600))], 10, 10, complete_since=10))

    assert evaluate(evaluator, 20) == ([[]], True)
    finish(evaluator.set_thresholds(Thresholds(error_window=60)))
    assert evaluate(evaluator, 30) == ([["resolved"]], True)


@pytest.mark.parametrize(("master_rpm", "findings"), [(1000, 0), (1, 2)])
def test_dry_run_keeps_the_peaks_of_past_traffic(master_rpm: int, findings: int) -> None:
    """After a dry run with other thresholds, an evaluation still finds a spike that is over."""
    evaluator = default_evaluator()
    thresholds = Thresholds(master_rpm=50)
    finish(evaluator.set_thresholds(thresholds))
    observe(evaluator, 100, tenant="acme")
    observe(evaluator, 20, now=90, tenant="other")

    assert len(dry_run(evaluator, 100, master_rpm=master_rpm, min_rpm_requests_1m=1)) == findings
    changes, _ = finish(evaluator.evaluate(thresholds, 120, 1e9))
    events = [event for change in changes for event in change.events]
    assert [(event.fingerprint, event.finding.value) for event in events] == [
        ("traffic_spike:master_rpm:master:acme", 100)
    ]


@pytest.mark.parametrize(
    ("now", "chosen"), [(3, {}), (250, {"error_window": 10})], ids=["same window", "shorter window"]
)
def test_dry_run_inhibits_findings_that_a_recent_outage_explains(
    now: float, chosen: dict[str, Any]
) -> None:
    """An outage explains its failures for as long as the current window counts them."""
    evaluator = default_evaluator(20, api_key="k1", provider="claude", status=502)
    evaluate(evaluator, 1)
    observe(evaluator, now=2, api_key="k1", provider="claude")

    assert dry_run(evaluator, now, **chosen) == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
    }


def test_outage_found_by_a_dry_run_inhibits_nothing_later() -> None:
    """The thresholds of a dry run are not applied."""
    evaluator = default_evaluator(5, api_key="k1", provider="claude", status=502)
    observe(evaluator, 5, api_key="k1")

    assert dry_run(evaluator, provider_failures=5)["error_spike:key:k1"] is None
    assert evaluate(evaluator, 2)[0][1] == ["fired"]


def test_dry_run_reports_invalid_metadata() -> None:
    """The finding is returned as the rule has made it, as in an evaluation."""
    invalid = finding(type="error_spike", metadata={"upstreams": ["a"]})
    reported: list[str] = []
    errors: dict[str, Exception] = {}
    evaluator = evaluator_of(FixedRule(invalid), reported=reported)

    assert finish(evaluator.dry_run(Thresholds(), 1, errors.__setitem__)) == [invalid]
    assert (list(errors), reported) == (["inhibition"], [])


@pytest.mark.parametrize(("seconds", "severities"), [(7.5, ["warning"]), (7.6, [None]), (12.5, [])])
def test_dry_run_of_a_latency_compares_whole_buckets(
    seconds: float, severities: list[str | None]
) -> None:
    """A duration of 8 s is in the bucket from 7.5 to 10 s of the current threshold."""
    evaluator = default_evaluator(20, provider="claude", duration=8.0)

    assert list(dry_run(evaluator, provider_latency_p95=seconds).values()) == severities


THRESHOLDS = Thresholds()


TRAFFIC = Traffic(THRESHOLDS, max_subjects=5)


class RecordedRules:
    """A RuleSet, and the errors that it has reported."""

    def __init__(self, *rules: Rule, interval: float = 60) -> None:
        self.reported: list[tuple[str, str]] = []
        self.outages: dict[str, tuple[str, float]] = {}
        self.rules = RuleSet(rules, interval=interval, report=self._report)

    def _report(self, component: str, error: Exception) -> None:
        self.reported.append((component, type(error).__name__))

    def evaluate(self) -> dict[str, list[Finding]]:
        """Return the findings of all rules."""
        return finish(self.rules.evaluate(TRAFFIC, THRESHOLDS, 0, self._report))

    def inhibit(self, now: float, **findings: list[Finding]) -> dict[str, list[Finding]]:
        """Return the findings after inhibition, and remember their outages."""
        inhibited, down = finish(
            self.rules.apply_inhibition(findings, self.outages, THRESHOLDS, now, self._report)
        )
        self.outages = down
        return inhibited


def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
    """Raise after one finding."""
    yield finding()
    raise ZeroDivisionError


def outage() -> Finding:
    """Return the finding that the provider claude is down."""
    return Finding(
        type="provider_down",
        subject=Subject("provider", "claude"),
        severity="critical",
        title="",
        message="",
    )


def spike(**upstreams: int) -> Finding:
    """Return the finding of a key with 20 failures, by provider."""
    by_upstream = {f"provider:{name}": failures for name, failures in upstreams.items()}
    return finding(type="error_spike", metadata={"errors": 20, "upstreams": by_upstream})


def test_rules_are_listed_by_name_in_their_order() -> None:
    """The name of a rule is its `name`, or that of the function."""
    first, second = FixedRule(name="one"), FixedRule(name="other")
    rules = RecordedRules(first, broken, second).rules

    assert rules.names == ("one", "broken", "other")
    assert dict(rules) == {"one": first, "broken": broken, "other": second}


def test_rules_with_equal_names_are_numbered() -> None:
    """Their alerts are restored by these names after a restart."""
    rules = [FixedRule(name="rule") for _ in range(3)]
    names = ["rule", "rule-2", "rule-3"]

    assert dict(RecordedRules(*rules).rules) == dict(zip(names, rules, strict=True))


@given(names=st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b"]), max_size=8))
def test_numbered_names_are_unique(names: list[str]) -> None:
    """A numbered name differs from names that look numbered; the first name is unchanged."""
    unique = check_distinct(names)

    assert len(set(unique)) == len(unique) == len(names)
    assert unique[:1] == tuple(names[:1])


def test_every_rule_is_called_with_traffic_thresholds_and_time() -> None:
    """The findings are returned by rule."""
    calls: list[tuple[Any, ...]] = []

    def rule(*arguments: Any) -> list[Finding]:
        calls.append(arguments)
        return [finding()]

    assert RecordedRules(rule, FixedRule()).evaluate() == {"rule": [finding()], "planned": []}
    assert calls == [(TRAFFIC, THRESHOLDS, 0)]


def test_rule_that_raises_is_reported_and_left_out() -> None:
    """Findings before the error do not count."""
    rules = RecordedRules(broken, FixedRule(finding()))

    assert rules.evaluate() == {"planned": [finding()]}
    assert rules.reported == [("rule broken", "ZeroDivisionError")]


@pytest.mark.parametrize("item", [0, "alert", ("error_spike", "k1")])
def test_rule_that_returns_other_objects_is_reported_and_left_out(item: object) -> None:
    """The findings of the other rules count."""
    findings: Any = [finding(), item]
    rules = RecordedRules(FixedRule(*findings, name="odd"), FixedRule(finding()))

    assert rules.inhibit(0, **rules.evaluate()) == {"planned": [finding()]}
    assert [component for component, _ in rules.reported] == ["rule odd"]


@pytest.mark.parametrize("metadata", [{"upstreams": {"provider:claude": 1}}, {"upstreams": 5}])
def test_finding_with_invalid_metadata_is_not_inhibited(metadata: dict[str, Any]) -> None:
    """A custom rule may use a built-in type with other metadata."""
    invalid = finding(type="error_spike", metadata=metadata)

    assert RecordedRules().inhibit(0, odd=[invalid], down=[outage()])["down"] == [outage()]


class Refreshing(FixedRule):
    """A rule with hooks: `refresh` awaits a function, `resume` rejects negative values."""

    def __init__(self, fetch: Callable[[], Any], name: str = "refreshing") -> None:
        super().__init__(name=name)
        self.fetch = fetch

    async def refresh(self) -> None:
        await self.fetch()

    def resume(self, traffic: Traffic, finding: Finding) -> None:
        self.findings.append(finding)
        if finding.value < 0:
            raise ValueError(finding.value)


@pytest.mark.anyio
async def test_every_rule_with_refresh_is_refreshed() -> None:
    """A refresh that fails, or takes longer than an interval, is reported."""
    refreshed: list[str] = []

    async def fetch() -> None:
        refreshed.append("good")

    async def fail() -> None:
        raise OSError

    rules = RecordedRules(
        Refreshing(fail, "bad"),
        Refreshing(anyio.sleep_forever, "slow"),
        FixedRule(),
        Refreshing(fetch, "good"),
        interval=0.01,
    )
    await rules.rules.refresh()

    assert refreshed == ["good"]
    assert rules.reported == [
        ("refresh of rule bad", "OSError"),
        ("refresh of rule slow", "TimeoutError"),
    ]


def test_rule_with_resume_gets_its_findings_after_a_restart() -> None:
    """An error is reported, and a rule without `resume` is left out."""
    rule = Refreshing(anyio.sleep_forever)
    rules = RecordedRules(rule, FixedRule())

    for name in ("refreshing", "planned"):
        for value in (1, -1):
            rules.rules.resume(name, TRAFFIC, finding(value=value))

    assert [finding.value for finding in rule.findings] == [1, -1]
    assert rules.reported == [("rule refreshing", "ValueError")]


def test_findings_that_an_outage_explains_do_not_fire() -> None:
    """The outage may be found by another rule; failures of other providers still fire."""
    findings = RecordedRules().inhibit(
        0, errors=[spike(claude=20), spike(gemini=20)], down=[outage()]
    )

    assert [[finding.severity for finding in findings[name]] for name in ("errors", "down")] == [
        [None, "warning"],
        ["critical"],
    ]


def test_outage_inhibits_its_failures_while_the_window_counts_them() -> None:
    """The window is 300 s, counts up to a tenth more, and is evaluated once in 60 s."""
    rules = RecordedRules(interval=60)
    rules.inhibit(0, down=[outage()])

    findings = [rules.inhibit(now, errors=[spike(claude=20)]) for now in (60, 390, 391)]

    assert [by_rule["errors"][0].severity for by_rule in findings] == [None, None, "warning"]
