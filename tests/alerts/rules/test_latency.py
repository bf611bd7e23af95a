"""Answers that take too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import high_latency

from .scenario import Scenario, severities


def test_a_provider_that_is_too_slow_is_found_with_its_numbers() -> None:
    """It must last for five minutes, and says above what the 95th percentile lies."""
    scenario = Scenario()
    scenario.observe(60, provider="Claude", duration=1.0)
    scenario.observe(40, provider="Claude", duration=20.0)

    assert scenario.evaluate(high_latency) == [
        Finding(
            type="high_latency",
            subject=Subject("provider", "Claude", "Claude"),
            severity="warning",
            title="Provider 'Claude' responds slowly (p95 over 15 s)",
            message="Provider 'Claude' took longer than 5 s for 40 of 100 responses "
            "in the last 300 s; p95 is over 15 s",
            value=15,
            metadata={"requests": 100, "slow": 40, "threshold": 5},
            hold_for=300,
            window=300,
        )
    ]


@given(
    durations=st.lists(st.floats(0, 60), min_size=10, max_size=100),
    threshold=st.floats(0.001, 50),
)
def test_it_fires_exactly_where_more_than_5_percent_took_longer(
    durations: list[float], threshold: float
) -> None:
    """Buckets or not, the threshold is compared with every single duration."""
    scenario = Scenario(provider_latency_p95=threshold, error_evidence=False)
    for duration in durations:
        scenario.observe(provider="claude", duration=duration)

    fires = "warning" in severities(scenario.evaluate(high_latency)).values()

    assert fires == (sum(each > threshold for each in durations) / len(durations) > 0.05)


@given(durations=st.lists(st.floats(0, 100), min_size=10, max_size=100))
def test_the_p95_that_it_tells_is_never_above_the_true_one(durations: list[float]) -> None:
    """It is the lower bound of the bucket that the 95th percentile is in."""
    scenario = Scenario(error_evidence=False)
    for duration in durations:
        scenario.observe(provider="claude", duration=duration)

    for found in scenario.evaluate(high_latency):
        above = sum(each >= found.value for each in durations)
        assert above / len(durations) >= 0.05
        assert found.severity is None or found.value >= 5


@pytest.mark.parametrize(("slow", "severity"), [(2, None), (5, "warning")])
def test_a_few_slow_answers_among_few_are_no_evidence(slow: int, severity: Severity | None) -> None:
    """Two of twenty are above 5 % by chance often enough."""
    scenario = Scenario()
    scenario.observe(20 - slow, provider="claude", duration=1.0)
    scenario.observe(slow, provider="claude", duration=20.0)

    assert [each.severity for each in scenario.evaluate(high_latency)] == [severity]


def test_what_our_limit_answered_and_who_left_is_no_latency() -> None:
    """An instant 429 makes no provider fast, and a client that hangs makes none slow."""
    scenario = Scenario()
    scenario.observe(20, provider="claude", duration=20.0)
    scenario.observe(1000, provider="claude", status=429, limited=True)
    scenario.observe(1000, provider="claude", outcome="client_disconnect", duration=50.0)

    (found,) = scenario.evaluate(high_latency)

    assert found.metadata == {"requests": 20, "slow": 20, "threshold": 5}
