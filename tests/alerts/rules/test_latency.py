"""The `high_latency` rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import high_latency

from .scenario import Scenario, severities


def test_slow_provider_finding_has_its_numbers() -> None:
    """The finding has the lower bound of the p95 and must last for five minutes."""
    scenario = Scenario()
    scenario.observe(60, provider="Claude", time_to_first_byte=1.0, duration=30.0)
    scenario.observe(40, provider="Claude", time_to_first_byte=20.0, duration=30.0)

    assert scenario.evaluate(high_latency) == [
        Finding(
            type="high_latency",
            subject=Subject("provider", "Claude", "Claude"),
            severity="warning",
            title="Provider 'Claude' responds slowly (p95 over 15 s)",
            message="Provider 'Claude' took longer than 5 s to the first byte of 40 of 100 "
            "responses in the last 5m0s; p95 is over 15 s",
            value=15,
            metadata={"requests": 100, "slow": 40, "threshold": 5},
            hold_for=300,
            keep_firing=300,
            window=300,
        )
    ]


def test_long_stream_with_an_early_first_byte_is_not_slow() -> None:
    """A stream of a language model takes as long as its text; only the wait before it counts."""
    scenario = Scenario()
    scenario.observe(100, provider="claude", time_to_first_byte=0.4, duration=8.0)

    assert scenario.evaluate(high_latency) == []


def test_response_without_body_counts_by_its_duration() -> None:
    """The duration of a response without a body ends with its headers."""
    scenario = Scenario()
    scenario.observe(20, provider="claude", status=204, time_to_first_byte=None, duration=8.0)

    assert severities(scenario.evaluate(high_latency)) == {
        "high_latency:provider:claude": "warning"
    }


@given(
    durations=st.lists(st.floats(0, 60), min_size=10, max_size=100),
    threshold=st.floats(0.001, 50),
)
def test_rule_fires_if_and_only_if_more_than_5_percent_took_longer(
    durations: list[float], threshold: float
) -> None:
    """The comparison with the threshold is exact in spite of the buckets."""
    scenario = Scenario(provider_latency_p95=threshold, error_evidence=False)
    for duration in durations:
        scenario.observe(provider="claude", time_to_first_byte=duration)

    fires = "warning" in severities(scenario.evaluate(high_latency)).values()

    slow = sum(duration > threshold for duration in durations)
    assert fires == (slow / len(durations) > 0.05)


@given(durations=st.lists(st.floats(0, 100), min_size=10, max_size=100))
def test_reported_p95_is_never_above_the_true_p95(durations: list[float]) -> None:
    """The value is the lower bound of the bucket of the 95th percentile."""
    scenario = Scenario(error_evidence=False)
    for duration in durations:
        scenario.observe(provider="claude", time_to_first_byte=duration)

    for finding in scenario.evaluate(high_latency):
        above = sum(duration >= finding.value for duration in durations)
        assert above / len(durations) >= 0.05
        assert finding.severity is None or finding.value >= 5


@pytest.mark.parametrize(("slow", "severity"), [(2, None), (5, "warning")])
def test_few_slow_responses_without_evidence_do_not_fire(
    slow: int, severity: Severity | None
) -> None:
    """Two slow responses of 20 may be chance, five may not."""
    scenario = Scenario()
    scenario.observe(20 - slow, provider="claude", duration=1.0)
    scenario.observe(slow, provider="claude", duration=20.0)

    assert [finding.severity for finding in scenario.evaluate(high_latency)] == [severity]


def test_limited_requests_and_disconnects_do_not_count() -> None:
    """Requests rejected by the gateway's limit and client disconnects have no latency."""
    scenario = Scenario()
    scenario.observe(20, provider="claude", duration=20.0)
    scenario.observe(1000, provider="claude", status=429, limited=True)
    scenario.observe(1000, provider="claude", outcome="client_disconnect", duration=50.0)

    (finding,) = scenario.evaluate(high_latency)

    assert finding.metadata == {"requests": 20, "slow": 20, "threshold": 5}
