"""Limits that were hit: a master's, and a provider's."""

from __future__ import annotations

from tokenpulse_mw.alerts import Finding, Subject
from tokenpulse_mw.alerts.rules import rate_limit, rate_limit_exceeded

from .scenario import Scenario, severities


def test_a_limited_master_is_found_with_how_often() -> None:
    """Being limited once is worth a warning, and the finding says how often it was."""
    scenario = Scenario()
    scenario.observe(3, tenant="acme", limited=True)

    (found,) = scenario.evaluate(rate_limit)

    assert found == Finding(
        type="rate_limit",
        subject=Subject("master", "acme"),
        severity="warning",
        title="Master 'acme' is rate limited",
        message="Master 'acme' was rate limited 3 times since the last evaluation",
        value=3,
        metadata={"limited": 3},
    )
    assert found.fingerprint == "rate_limit:master:acme"


def test_defect_13_a_limit_hit_between_two_rounds_is_found_in_the_next_and_ends_after_it() -> None:
    """What counts is the whole round, and not the instant of the look."""
    scenario = Scenario()
    scenario.observe(now=1, tenant="acme", limited=True)

    assert severities(scenario.evaluate(rate_limit, now=59)) == {
        "rate_limit:master:acme": "warning"
    }
    assert scenario.evaluate(rate_limit, now=119) == []


def test_a_provider_that_answers_with_429_too_often_is_found_with_its_numbers() -> None:
    """It must last for two minutes, and says how many of them were our own."""
    scenario = Scenario()
    scenario.observe(8, provider="claude", status=429)
    scenario.observe(5, provider="claude", status=429, limited=True)

    assert scenario.evaluate(rate_limit_exceeded) == [
        Finding(
            type="rate_limit_exceeded",
            subject=Subject("provider", "claude", "claude"),
            severity="warning",
            title="Provider 'claude' responds with 429 (13 in a minute)",
            message="Provider 'claude' had 13 responses with 429 in a minute "
            "(5 of them from the gateway's own limit), more than 10",
            value=13,
            metadata={"refused": 13, "ours": 5, "threshold": 10, "window": "1m"},
            hold_for=120,
        )
    ]
