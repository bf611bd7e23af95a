"""Default rules, and behaviour that several rules share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tokenpulse_mw.alerts import Finding, Rule, Severity, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.rules import (
    StalledRequest,
    UpstreamQuotaLow,
    budget,
    error_spike,
    high_error_rate,
    high_latency,
    provider_down,
    quota_exceeded,
    rate_limit,
    rate_limit_exceeded,
    rule_name,
)
from tokenpulse_mw.alerts.rules.rule import duration_text
from tokenpulse_mw.exchange import UpstreamQuota

from ..exchanges import exchange
from .open_request import Open
from .scenario import Scenario, findings_of


def test_default_rules_are_all_rules_without_a_source() -> None:
    """The rules of the seed come first."""
    assert [rule_name(rule) for rule in default_rules()] == [
        "rate_limit",
        "error_spike",
        "provider_down",
        "credential_rejected",
        "traffic_spike",
        "high_error_rate",
        "high_latency",
        "rate_limit_exceeded",
        "stalled_request",
        "upstream_quota_low",
    ]


class Silent:
    """A custom rule that finds nothing."""

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        """Return no findings."""
        return ()


def test_rule_name_is_its_attribute_or_that_of_its_function_or_class() -> None:
    """Any callable may be a rule, with or without a `name`."""
    named: Any = Silent()
    named.name = "my_rule"

    assert rule_name(named) == "my_rule"
    assert rule_name(Silent()) == "Silent"
    assert rule_name(lambda traffic, thresholds, now: ()) == "<lambda>"


def test_rules_without_traffic_find_nothing() -> None:
    """A gateway without requests has no alerts."""
    scenario = Scenario(global_qps=1, master_rpm=1, master_tpm=1, master_rpd=1, master_tpd=1)

    assert [finding for rule in default_rules() for finding in scenario.evaluate(rule)] == []


@pytest.mark.anyio
async def test_keep_firing_applies_to_every_rule() -> None:
    """Rules for the amount of traffic have `traffic_keep_firing`, the others `keep_firing`."""
    scenario = Scenario(keep_firing=45, traffic_keep_firing=90, master_rpm=10, error_rate=0.1)
    scenario.observe(20, tenant="acme", api_key="k1", provider="claude", status=502, duration=50.0)
    scenario.observe(20, tenant="acme", provider="claude", status=429, limited=True)
    scenario.observe(20, credential="c1", provider="claude", status=401)
    quota_rule = quota_exceeded(lambda: [("k1", 10, 10)])
    await quota_rule.refresh()
    budget_rule = budget(lambda: [("k1", 10, 10, "dollars")])
    await budget_rule.refresh()

    rules: list[Rule] = [*default_rules(), quota_rule, budget_rule]
    for rule in rules:
        if isinstance(rule, StalledRequest):
            rule.in_progress.open[Open(-1000)] = None
        elif isinstance(rule, UpstreamQuotaLow):
            rule.upstream.add(exchange(upstream=(UpstreamQuota("requests", 0, 10, None),)))

    findings = [
        finding
        for rule in rules
        for finding in findings_of(rule, scenario.traffic, scenario.thresholds)
    ]

    traffic = {"rate_limit", "rate_limit_exceeded", "traffic_spike"}
    assert {finding.type: finding.keep_firing for finding in findings} == {
        rule_name(rule): 90 if rule_name(rule) in traffic else 45 for rule in rules
    }


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        (error_spike, "error_rate"),
        (provider_down, "provider_failures"),
        (high_error_rate, "provider_error_rate"),
        (high_latency, "provider_latency_p95"),
        (rate_limit_exceeded, "provider_429_rpm"),
    ],
)
def test_rule_without_threshold_finds_nothing(rule: Rule, threshold: str) -> None:
    """A threshold of None disables its rule."""
    cases: list[tuple[dict[str, Any], bool]] = [({}, True), ({threshold: None}, False)]
    for thresholds, fires in cases:
        scenario = Scenario(**thresholds)
        scenario.observe(20, provider="claude", status=429, limited=True)
        scenario.observe(100, api_key="k1", provider="claude", status=500, duration=1000.0)

        assert bool(scenario.evaluate(rule)) is fires


LIMITED: dict[str, Any] = {"provider": "claude", "status": 429}
HALF: dict[str, Any] = {"error_rate": 0.5, "resolve_ratio": 0.5, "error_evidence": False}
WITHOUT_EVIDENCE: dict[str, Any] = {"error_evidence": False}


def slow(duration: float) -> list[tuple[int, dict[str, Any]]]:
    """Return 20 exchanges of one provider that took `duration` seconds."""
    return [(20, {"provider": "claude", "duration": duration})]


def failed(failures: int, requests: int) -> list[tuple[int, dict[str, Any]]]:
    """Return `requests` exchanges of one key and provider, of which `failures` failed."""
    upstream = {"api_key": "k1", "provider": "claude"}
    return [(failures, {**upstream, "status": 500}), (requests - failures, upstream)]


@pytest.mark.parametrize(
    ("rule", "thresholds", "exchanges", "expected"),
    [
        (error_spike, HALF, failed(50, 100), ["critical"]),
        (error_spike, HALF, failed(49, 100), [None]),
        (error_spike, HALF, failed(25, 100), [None]),
        (error_spike, HALF, failed(24, 100), []),
        (error_spike, HALF, failed(0, 100), []),
        (high_error_rate, WITHOUT_EVIDENCE, failed(51, 1000), ["critical"]),
        (high_error_rate, WITHOUT_EVIDENCE, failed(50, 1000), [None]),
        (high_error_rate, WITHOUT_EVIDENCE, failed(41, 1000), [None]),
        (high_error_rate, WITHOUT_EVIDENCE, failed(39, 1000), []),
        (high_latency, {}, slow(5.1), ["warning"]),
        (high_latency, {}, slow(5.0), [None]),
        (high_latency, {}, slow(4.1), [None]),
        (high_latency, {}, slow(4.0), []),
        (rate_limit_exceeded, {}, [(11, LIMITED)], ["warning"]),
        (rate_limit_exceeded, {}, [(10, LIMITED)], [None]),
        (rate_limit_exceeded, {}, [(8, LIMITED)], [None]),
        (rate_limit_exceeded, {}, [(7, LIMITED)], []),
        (rate_limit_exceeded, {"provider_429_rpm": 1000}, [(11, LIMITED)], []),
    ],
)
def test_value_between_resolve_and_fire_threshold_has_no_severity(
    rule: Rule,
    thresholds: dict[str, Any],
    exchanges: list[tuple[int, dict[str, Any]]],
    expected: list[Severity | None],
) -> None:
    """An alert fires at its threshold and resolves below `resolve_ratio` (80 %) of it."""
    scenario = Scenario(**thresholds)
    for times, fields in exchanges:
        scenario.observe(times, **fields)

    assert [finding.severity for finding in scenario.evaluate(rule)] == expected


@pytest.mark.parametrize(
    ("rule", "fields", "severity", "text"),
    [
        (rate_limit, {"limited": True}, "warning", "Clients of the gateway are currently being"),
        (error_spike, {"status": 500}, "critical", "The gateway has 100.0% error rate (20/20 req"),
        (high_latency, {"duration": 20.0}, "warning", "The gateway took longer than 5 s to the"),
        (rate_limit_exceeded, {"status": 429}, "warning", "The gateway had 20 responses with 429"),
    ],
)
def test_exchanges_without_subject_count_for_the_gateway(
    rule: Rule, fields: dict[str, Any], severity: Severity, text: str
) -> None:
    """A gateway that annotates neither tenants nor keys nor providers is covered as a whole."""
    scenario = Scenario()
    scenario.observe(20, **fields)

    (finding,) = scenario.evaluate(rule)

    assert (finding.subject.kind, finding.subject.id) == ("system", "0")
    assert (finding.subject.name, finding.severity) == ("global", severity)
    assert finding.fingerprint == f"{rule_name(rule)}:system:0"
    assert finding.message.startswith(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(300, "5m0s"), (90, "1m30s"), (45, "45s"), (1.5, "1.5s"), (5400, "1h30m0s")],
)
def test_duration_has_the_format_of_the_seed(seconds: float, text: str) -> None:
    """Durations in messages have hours, minutes and seconds."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("rule", "fields", "last", "end"),
    [
        (error_spike, {"api_key": "k1", "status": 500}, 300, 330),
        (high_latency, {"provider": "claude", "duration": 20.0}, 300, 330),
        (rate_limit_exceeded, {"provider": "claude", "status": 429}, 59, 66),
    ],
)
def test_finding_of_a_subject_without_requests_ends_after_its_window(
    rule: Rule, fields: dict[str, Any], last: float, end: float
) -> None:
    """A subject without requests fires until its window is empty."""
    scenario = Scenario()
    scenario.observe(20, **fields)

    assert [finding.severity for finding in scenario.evaluate(rule)] != []
    assert [finding.severity for finding in scenario.evaluate(rule, now=last)] != []
    assert scenario.evaluate(rule, now=end) == []
