"""Upstreams that fail every time."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import provider_down

from .scenario import Scenario


def outages(outcomes: str, **thresholds: Any) -> list[Finding]:
    """Return the findings of `provider_down` after `outcomes`: `x` is a failure, `.` a success."""
    scenario = Scenario(**thresholds)
    for outcome in outcomes:
        scenario.observe(provider="claude", status=502 if outcome == "x" else 200)
    return scenario.evaluate(provider_down)


@pytest.mark.parametrize(
    ("outcomes", "severities"),
    [
        ("", []),
        ("." * 20, []),
        ("x" * 9, [None]),
        ("x" * 10, ["critical"]),
        ("." * 50 + "x" * 9, [None]),
        ("." * 50 + "x" * 10, ["critical"]),
        ("x" * 9 + "." + "x" * 9, [None]),
        ("x" * 9 + "." + "x" * 10, ["critical"]),
        ("x" * 50 + ".", []),
    ],
)
def test_a_provider_is_down_after_ten_failures_with_no_success_between(
    outcomes: str, severities: list[Severity | None]
) -> None:
    """One success begins the count anew, and ends the finding."""
    found = outages(outcomes)

    assert [each.severity for each in found] == severities


@pytest.mark.parametrize(
    ("outcomes", "severity"),
    [("...xxx", "critical"), ("....xxx", None), ("x" * 6 + "." * 10 + "xxxx", "critical")],
)
def test_at_least_half_of_the_last_twenty_must_have_failed_too(
    outcomes: str, severity: Severity | None
) -> None:
    """With a low threshold a short bad patch of a provider that mostly works is no outage."""
    (found,) = outages(outcomes, provider_failures=3)

    assert found.severity == severity


def test_a_provider_without_traffic_stays_down() -> None:
    """That nobody asks it any longer is no sign of health; only a success is."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", status=502)

    assert [each.severity for each in scenario.evaluate(provider_down, now=1e6)] == ["critical"]
    scenario.observe(provider="claude", now=1e6)
    assert scenario.evaluate(provider_down, now=1e6) == []


def test_a_provider_that_is_down_is_found_with_its_numbers() -> None:
    """Where no credential is annotated the alert is about the provider."""
    (found,) = outages("x" * 12)

    assert found == Finding(
        type="provider_down",
        subject=Subject("provider", "claude", "claude"),
        severity="critical",
        title="Provider claude failing (12 failures)",
        message="claude failed 12 times in a row",
        value=12,
        metadata={"failures": 12, "threshold": 10},
        window=0,
    )
    assert found.fingerprint == "provider_down:provider:claude"


def test_a_credential_that_is_down_is_found_by_its_id() -> None:
    """One spent API key is told apart from a provider that fails everyone."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", credential="c1", status=502)
    scenario.observe(10, provider="claude", credential="c2")

    (found,) = scenario.evaluate(provider_down)

    assert found.fingerprint == "provider_down:apikey:c1"
    assert found.subject == Subject("apikey", "c1", "claude")
    assert found.message == "API key 'c1' of claude failed 10 times in a row"


def test_defect_1_failures_of_long_ago_are_nothing_against_a_success() -> None:
    """Neither do ten thousand old failures keep it down, nor a million successes keep it up."""
    scenario = Scenario()
    scenario.observe(10_000, provider="claude", status=502)
    scenario.observe(provider="claude")
    assert scenario.evaluate(provider_down) == []

    scenario.observe(10_000, provider="claude")
    scenario.observe(20, provider="claude", status=502)
    assert [each.severity for each in scenario.evaluate(provider_down)] == ["critical"]


def test_defect_6_a_stream_that_breaks_after_200_is_a_failure_of_its_provider() -> None:
    """The status was sent before anything went wrong."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", status=200, outcome="error")

    assert [each.severity for each in scenario.evaluate(provider_down)] == ["critical"]
