"""Traffic above what was expected: of the gateway, and of a master."""

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
def test_a_masters_spike_is_found_with_its_numbers(
    metric: str, threshold: int, value: int, title: str, message: str, window: str
) -> None:
    """The metadata is the seed's, and so is the fingerprint."""
    scenario = Scenario(**{metric: threshold})
    scenario.observe(50, tenant="acme", usage=PER_REQUEST)

    (found,) = scenario.evaluate(traffic_spike)

    assert found == Finding(
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
    assert found.fingerprint == f"traffic_spike:{metric}:master:acme"


def test_the_gateways_spike_is_found_with_its_numbers() -> None:
    """Defect 12: it is one count of everything, of one moment, and no sum of rounded ones."""
    scenario = Scenario(global_qps=4)
    for master in ("acme", "umbrella", None, "hooli", "initech"):
        scenario.observe(9, now=1, tenant=master)

    (found,) = scenario.evaluate(traffic_spike, now=5)

    assert found == Finding(
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
    assert found.fingerprint == "traffic_spike:global_qps:system:0"


@pytest.mark.parametrize(
    ("requests", "found"),
    [
        (79, []),
        (80, [None]),
        (99, [None]),
        (100, ["warning"]),
        (199, ["warning"]),
        (200, ["critical"]),
    ],
)
@pytest.mark.parametrize("chosen", [{"master_rpm": 100}, {"master_rpd": 100}, {"global_qps": 10}])
def test_at_the_threshold_it_is_a_warning_and_at_twice_that_critical(
    requests: int, found: list[Severity | None], chosen: dict[str, Any]
) -> None:
    """Below 80 % of the threshold it ends."""
    scenario = Scenario(**chosen)
    scenario.observe(requests, tenant="acme")

    assert [each.severity for each in scenario.evaluate(traffic_spike)] == found


@pytest.mark.parametrize(
    ("requests", "keeps"), [(80, "warning"), (159, "warning"), (160, "critical"), (200, "critical")]
)
def test_what_was_critical_stays_so_down_to_80_percent_of_that(
    requests: int, keeps: Severity
) -> None:
    """Traffic that swings around twice the threshold is told of once."""
    scenario = Scenario(master_rpm=100)
    scenario.observe(requests, tenant="acme")

    assert [each.keeps for each in scenario.evaluate(traffic_spike)] == [keeps]


def test_from_where_on_it_is_critical_can_be_chosen() -> None:
    """`critical_factor` takes the place of the seed's 2."""
    scenario = Scenario(master_rpm=100, critical_factor=1.5)
    scenario.observe(150, tenant="acme")

    assert [each.severity for each in scenario.evaluate(traffic_spike)] == ["critical"]


@pytest.mark.parametrize(
    ("requests", "found"), [(39, []), (40, [None]), (49, [None]), (50, ["critical"])]
)
def test_defect_8_below_the_minimum_no_minute_fires(
    requests: int, found: list[Severity | None]
) -> None:
    """How bad it is above it still follows the threshold."""
    scenario = Scenario(master_rpm=5, min_rpm_requests_1m=50)
    scenario.observe(requests, tenant="acme")

    assert [each.severity for each in scenario.evaluate(traffic_spike)] == found


def test_defect_8_the_minimum_of_tokens_is_of_tokens() -> None:
    """A day has no minimum."""
    scenario = Scenario(master_tpm=1, master_tpd=1, min_tpm_tokens_1m=1000)
    scenario.observe(5, tenant="acme", usage=PER_REQUEST)

    assert severities(scenario.evaluate(traffic_spike)) == {
        "traffic_spike:master_tpd:master:acme": "critical"
    }


def test_defect_13_a_spike_between_two_rounds_is_found_and_ends_after_it() -> None:
    """What is compared is the highest value since the last round."""
    scenario = Scenario(global_qps=10, master_rpm=100)
    scenario.observe(100, tenant="acme", now=1)

    assert severities(scenario.evaluate(traffic_spike, now=119)) == {
        "traffic_spike:global_qps:system:0": "warning",
        "traffic_spike:master_rpm:master:acme": "warning",
    }
    assert scenario.evaluate(traffic_spike, now=179) == []


def test_a_minute_that_lies_across_a_round_is_a_minute() -> None:
    """Half of a spike before the round and half of it after it are a whole one."""
    scenario = Scenario(master_rpm=100)
    scenario.observe(50, tenant="acme", now=31)
    assert scenario.evaluate(traffic_spike, now=60) == []
    scenario.observe(50, tenant="acme", now=89)

    assert severities(scenario.evaluate(traffic_spike, now=120)) == {
        "traffic_spike:master_rpm:master:acme": "warning"
    }


def test_defect_2_what_stops_is_found_no_more() -> None:
    """A minute, or a day, after the last request there is nothing to find."""
    scenario = Scenario(master_rpm=10, master_rpd=10)
    scenario.observe(20, tenant="acme")
    assert len(scenario.evaluate(traffic_spike)) == 2

    scenario.evaluate(traffic_spike, now=60)
    assert severities(scenario.evaluate(traffic_spike, now=120)) == {
        "traffic_spike:master_rpd:master:acme": "critical"
    }
    scenario.evaluate(traffic_spike, now=86400)
    assert scenario.evaluate(traffic_spike, now=90000) == []


def test_a_threshold_that_is_just_reached_is_reached() -> None:
    """Also where a second's share of ten is no round number, and nothing is left to resolve."""
    scenario = Scenario(global_qps=1.1, resolve_ratio=1)
    scenario.observe(11)

    assert severities(scenario.evaluate(traffic_spike)) == {
        "traffic_spike:global_qps:system:0": "warning"
    }


def test_defect_9_without_thresholds_there_are_no_spikes() -> None:
    """A library cannot know what is much for a gateway."""
    scenario = Scenario()
    scenario.observe(5000, tenant="acme", usage=TokenUsage(input=10**9))

    assert scenario.evaluate(traffic_spike) == []


def test_defect_15_requests_without_a_master_are_the_gateways_own() -> None:
    """Nothing is invisible for want of a name."""
    scenario = Scenario(master_rpm=10)
    scenario.observe(10)

    assert severities(scenario.evaluate(traffic_spike)) == {
        "traffic_spike:master_rpm:system:0": "warning"
    }


def test_masters_beyond_the_bound_are_judged_together_and_never_critical() -> None:
    """Their sum is no one's, but it must not go unseen either."""
    scenario = Scenario(max_subjects=1, master_rpm=10)
    scenario.observe(1, tenant="acme")
    for number in range(100):
        scenario.observe(1, tenant=str(number))

    (found,) = scenario.evaluate(traffic_spike)

    assert (found.subject.id, found.severity, found.value) == (OVERFLOW, "warning", 100)
    assert found.message == (
        "Masters beyond max_subjects together had 100 requests in a minute, threshold is 10"
    )


def test_only_the_masters_near_their_threshold_are_looked_at() -> None:
    """Ten of many cost a round as much as ten of ten."""
    scenario = Scenario(max_subjects=1000, master_rpm=100)
    for number in range(1000):
        scenario.observe(1, tenant=str(number))
    scenario.observe(99, tenant="7")

    assert [master for master, *_ in scenario.traffic.counts.minute.maxima()] == ["7"]
    assert [each.subject.id for each in scenario.evaluate(traffic_spike)] == ["7"]


def test_nobody_can_be_called_as_those_beyond_max_subjects() -> None:
    """A tenant of that very name is one of its own, and its spike is as critical as another's."""
    scenario = Scenario(master_rpm=50)
    scenario.observe(500, tenant="__overflow__")

    (found,) = scenario.evaluate(traffic_spike)

    assert (found.subject.id, found.severity) == ("__overflow___", "critical")
    assert found.title.startswith("Master '__overflow___': RPM")
