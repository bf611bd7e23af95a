"""The `traffic_spike` rule."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw import TokenUsage
from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import traffic_spike
from tokenpulse_mw.alerts.traffic import OVERFLOW

from .scenario import Scenario, severities

PER_REQUEST = TokenUsage(input=60, output=40)


@pytest.mark.parametrize(
    ("metric", "threshold", "value", "title", "message", "window"),
    [
        (
            "master_rpm",
            40,
            50,
            "Master 'acme': RPM threshold exceeded (50 >= 40)",
            "Master 'acme' had 50 requests in a minute, threshold is 40",
            "1m",
        ),
        (
            "master_tpm",
            4000,
            5000,
            "Master 'acme': TPM threshold exceeded (5000 >= 4000)",
            "Master 'acme' had 5000 tokens in a minute, threshold is 4000",
            "1m",
        ),
        (
            "master_rpd",
            40,
            50,
            "Master 'acme': RPD threshold exceeded (50 >= 40)",
            "Master 'acme' had 50 requests in 24 hours, threshold is 40",
            "24h",
        ),
        (
            "master_tpd",
            4000,
            5000,
            "Master 'acme': TPD threshold exceeded (5000 >= 4000)",
            "Master 'acme' had 5000 tokens in 24 hours, threshold is 4000",
            "24h",
        ),
    ],
)
def test_tenant_finding_has_its_numbers(
    metric: str, threshold: int, value: int, title: str, message: str, window: str
) -> None:
    """The metadata and the fingerprint have the format of the seed."""
    scenario = Scenario(**{metric: threshold})
    scenario.observe(50, tenant="acme", usage=PER_REQUEST)

    (finding,) = scenario.evaluate(traffic_spike)

    assert finding == Finding(
        type="traffic_spike",
        subject=Subject("master", "acme"),
        severity="warning",
        title=title,
        message=message,
        metric=metric,
        value=value,
        metadata={"metric": metric, "value": value, "threshold": threshold, "window": window},
        window={"1m": 60, "24h": 86_400}[window],
        keeps="warning",
    )
    assert finding.fingerprint == f"traffic_spike:{metric}:master:acme"


def test_defect_12_gateway_finding_counts_all_requests_together() -> None:
    """`global_qps` is one count of all tenants, not a sum of rounded rates."""
    scenario = Scenario(global_qps=4)
    for tenant in ("acme", "umbrella", None, "hooli", "initech"):
        scenario.observe(9, now=1, tenant=tenant)

    (finding,) = scenario.evaluate(traffic_spike, now=5)

    assert finding == Finding(
        type="traffic_spike",
        subject=Subject("system", "0", "gateway"),
        severity="warning",
        title="The gateway: QPS threshold exceeded (4.5 >= 4)",
        message="The gateway had 4.5 requests a second (over 10 s), threshold is 4",
        metric="global_qps",
        value=4.5,
        metadata={"metric": "global_qps", "value": 4.5, "threshold": 4, "window": "realtime"},
        window=10,
        keeps="warning",
    )
    assert finding.fingerprint == "traffic_spike:global_qps:system:0"


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (79, []),
        (80, [None]),
        (99, [None]),
        (100, ["warning"]),
        (199, ["warning"]),
        (200, ["critical"]),
    ],
)
@pytest.mark.parametrize(
    "thresholds", [{"master_rpm": 100}, {"master_rpd": 100}, {"global_qps": 10}]
)
def test_severity_is_warning_from_the_threshold_and_critical_from_twice_of_it(
    requests: int, expected: list[Severity | None], thresholds: dict[str, Any]
) -> None:
    """Below 80 % of the threshold there is no finding."""
    scenario = Scenario(**thresholds)
    scenario.observe(requests, tenant="acme")

    assert [finding.severity for finding in scenario.evaluate(traffic_spike)] == expected


@pytest.mark.parametrize(
    ("thresholds", "requests", "expected"),
    [
        ({"master_rpm": 100, "critical_factor": 1.5}, 150, ["critical"]),
        ({"master_rpm": 5, "min_rpm_requests_1m": 50}, 39, []),
        ({"master_rpm": 5, "min_rpm_requests_1m": 50}, 40, [None]),
        ({"master_rpm": 5, "min_rpm_requests_1m": 50}, 49, [None]),
        ({"master_rpm": 5, "min_rpm_requests_1m": 50}, 50, ["critical"]),
    ],
)
def test_defect_8_minimum_and_critical_factor_change_the_severity(
    thresholds: dict[str, Any], requests: int, expected: list[Severity | None]
) -> None:
    """The rule does not fire below the minimum; above it, the severity follows the threshold."""
    scenario = Scenario(**thresholds)
    scenario.observe(requests, tenant="acme")

    assert [finding.severity for finding in scenario.evaluate(traffic_spike)] == expected


@pytest.mark.parametrize(
    ("requests", "keeps"), [(80, "warning"), (159, "warning"), (160, "critical"), (200, "critical")]
)
def test_critical_alert_stays_critical_down_to_80_percent(requests: int, keeps: Severity) -> None:
    """Traffic that swings around twice the threshold does not change the severity."""
    scenario = Scenario(master_rpm=100)
    scenario.observe(requests, tenant="acme")

    assert [finding.keeps for finding in scenario.evaluate(traffic_spike)] == [keeps]


def test_defect_8_minimum_of_tokens_applies_to_the_minute_alone() -> None:
    """`master_tpd` has no minimum."""
    scenario = Scenario(master_tpm=1, master_tpd=1, min_tpm_tokens_1m=1000)
    scenario.observe(5, tenant="acme", usage=PER_REQUEST)

    assert severities(scenario.evaluate(traffic_spike)) == {
        "traffic_spike:master_tpd:master:acme": "critical"
    }


def test_defect_13_spike_between_evaluations_is_found_once() -> None:
    """The rule compares the highest value since the last evaluation."""
    scenario = Scenario(global_qps=10, master_rpm=100)
    scenario.observe(100, tenant="acme", now=1)

    assert severities(scenario.evaluate(traffic_spike, now=119)) == {
        "traffic_spike:global_qps:system:0": "warning",
        "traffic_spike:master_rpm:master:acme": "warning",
    }
    assert scenario.evaluate(traffic_spike, now=179) == []


def test_spike_across_an_evaluation_is_found() -> None:
    """A minute that begins before an evaluation and ends after it counts as a whole."""
    scenario = Scenario(master_rpm=100)
    scenario.observe(50, tenant="acme", now=31)
    assert scenario.evaluate(traffic_spike, now=60) == []
    scenario.observe(50, tenant="acme", now=89)

    assert severities(scenario.evaluate(traffic_spike, now=120)) == {
        "traffic_spike:master_rpm:master:acme": "warning"
    }


def test_defect_2_finding_ends_when_the_traffic_stops() -> None:
    """The finding ends a minute, or a day, after the last request."""
    scenario = Scenario(master_rpm=10, master_rpd=10)
    scenario.observe(20, tenant="acme")
    assert len(scenario.evaluate(traffic_spike)) == 2

    scenario.evaluate(traffic_spike, now=60)
    assert severities(scenario.evaluate(traffic_spike, now=120)) == {
        "traffic_spike:master_rpd:master:acme": "critical"
    }
    scenario.evaluate(traffic_spike, now=86400)
    assert scenario.evaluate(traffic_spike, now=90000) == []


def test_value_equal_to_the_threshold_fires() -> None:
    """Float rounding of the request rate does not hide a value equal to the threshold."""
    scenario = Scenario(global_qps=1.1, resolve_ratio=1)
    scenario.observe(11)

    assert severities(scenario.evaluate(traffic_spike)) == {
        "traffic_spike:global_qps:system:0": "warning"
    }


def test_defect_9_rule_without_thresholds_finds_nothing() -> None:
    """The traffic thresholds depend on the gateway and are off by default."""
    scenario = Scenario()
    scenario.observe(5000, tenant="acme", usage=TokenUsage(input=10**9))

    assert scenario.evaluate(traffic_spike) == []


def test_defect_15_requests_without_tenant_count_for_the_gateway() -> None:
    """A gateway that does not annotate tenants is covered as a whole."""
    scenario = Scenario(master_rpm=10)
    scenario.observe(10)

    assert severities(scenario.evaluate(traffic_spike)) == {
        "traffic_spike:master_rpm:system:0": "warning"
    }


def test_tenants_beyond_max_subjects_are_counted_together_and_never_critical() -> None:
    """The sum of several tenants is reported, but at most as a warning."""
    scenario = Scenario(max_subjects=1, master_rpm=10)
    scenario.observe(1, tenant="acme")
    for number in range(100):
        scenario.observe(1, tenant=str(number))

    (finding,) = scenario.evaluate(traffic_spike)

    assert (finding.subject.id, finding.severity, finding.value) == (OVERFLOW, "warning", 100)
    assert finding.message == (
        "Masters beyond max_subjects, combined had 100 requests in a minute, threshold is 10"
    )


def test_rule_reads_only_tenants_near_their_threshold() -> None:
    """The cost of an evaluation does not depend on the number of quiet tenants."""
    scenario = Scenario(max_subjects=1000, master_rpm=100)
    for number in range(1000):
        scenario.observe(1, tenant=str(number))
    scenario.observe(99, tenant="7")

    assert [tenant for tenant, *_ in scenario.traffic.counts.minute.maxima()] == ["7"]
    assert [finding.subject.id for finding in scenario.evaluate(traffic_spike)] == ["7"]


def test_tenant_named_as_the_overflow_is_counted_separately() -> None:
    """A tenant named `__overflow__` gets another name and may be critical."""
    scenario = Scenario(master_rpm=50)
    scenario.observe(500, tenant="__overflow__")

    (finding,) = scenario.evaluate(traffic_spike)

    assert (finding.subject.id, finding.severity) == ("__overflow___", "critical")
    assert finding.title.startswith("Master '__overflow___': RPM")
