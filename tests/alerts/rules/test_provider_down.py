"""The `provider_down` rule."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import labels_of
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
def test_provider_is_down_after_ten_failures_in_a_row(
    outcomes: str, severities: list[Severity | None]
) -> None:
    """A success resets the count and ends the finding."""
    assert [finding.severity for finding in outages(outcomes)] == severities


@pytest.mark.parametrize(
    ("outcomes", "severity"),
    [("...xxx", "critical"), ("....xxx", None), ("x" * 6 + "." * 10 + "xxxx", "critical")],
)
def test_provider_with_mostly_successes_is_not_down(
    outcomes: str, severity: Severity | None
) -> None:
    """At least half of the last 20 outcomes must be failures, also with a low threshold."""
    (finding,) = outages(outcomes, provider_failures=3)

    assert finding.severity == severity


def test_provider_without_traffic_stays_down() -> None:
    """Only a success ends the finding, not the lack of requests."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", status=502)

    (finding,) = scenario.evaluate(provider_down, now=1e6)
    assert finding.severity == "critical"
    scenario.observe(provider="claude", now=1e6)
    assert scenario.evaluate(provider_down, now=1e6) == []


def test_provider_down_finding_has_its_numbers() -> None:
    """Without a credential the finding is about the provider."""
    (finding,) = outages("x" * 12)

    assert finding == Finding(
        type="provider_down",
        subject=Subject("provider", "claude", "claude"),
        severity="critical",
        title="Provider 'claude' failing (12 failures)",
        message="Provider 'claude' has 12 failures out of 12 requests (100.0% failure rate)",
        value=12,
        metadata={"failures": 12, "threshold": 10},
        keep_firing=300,
        window=0,
    )
    assert finding.fingerprint == "provider_down:provider:claude"


@pytest.mark.parametrize(
    ("provider", "name", "text"),
    [("claude", "claude", "API Key ID c1 in group 'claude'"), ("unknown", "", "API Key ID c1")],
)
def test_credential_down_finding_has_the_id_of_the_credential(
    provider: str, name: str, text: str
) -> None:
    """The finding is about one credential, not about others of the same provider."""
    scenario = Scenario()
    scenario.observe(10, provider=provider, credential="c1", status=502)
    scenario.observe(10, provider=provider, credential="c2")

    (finding,) = scenario.evaluate(provider_down)

    assert finding.fingerprint == "provider_down:apikey:c1"
    assert finding.subject == Subject("apikey", "c1", name)
    assert finding.title == "Provider API key failing (10 failures)"
    assert finding.message == f"{text} has 10 failures out of 10 requests (100.0% failure rate)"


@pytest.mark.parametrize("provider", ["claude", "unknown"])
def test_credential_down_finding_has_the_group_of_the_credential(provider: str) -> None:
    """The readable group replaces the provider, which stays in the metadata for its label."""
    scenario = Scenario()
    for group in ("old", "claude-prod", None):
        scenario.observe(5, provider=provider, credential="c1", credential_group=group, status=502)

    (finding,) = scenario.evaluate(provider_down)

    assert finding.fingerprint == "provider_down:apikey:c1"
    assert finding.subject == Subject("apikey", "c1", "claude-prod")
    assert finding.message.startswith("API Key ID c1 in group 'claude-prod' has 15 failures")
    assert finding.metadata["provider"] == ("" if provider == "unknown" else "claude")
    assert labels_of(finding, "critical")["provider"] == finding.metadata["provider"]


def test_group_of_a_provider_is_not_its_name() -> None:
    """A group without the id of a credential has no effect."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", credential_group="claude-prod", status=502)

    (finding,) = scenario.evaluate(provider_down)

    assert finding.subject == Subject("provider", "claude", "claude")


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ("." * 5 + "x" * 10, "10 failures out of 15 requests (66.7% failure rate)"),
        (".x." + "x" * 10, "11 failures out of 13 requests (84.6% failure rate)"),
        ("x" * 500, "500 failures out of 500 requests (100.0% failure rate)"),
    ],
)
def test_message_counts_recent_requests_or_all_failures_in_a_row(outcomes: str, text: str) -> None:
    """The failure rate is that of the last 20 requests, or of all since the last success."""
    (finding,) = outages(outcomes)

    assert finding.message == f"Provider 'claude' has {text}"


def test_defect_1_old_outcomes_do_not_count() -> None:
    """10,000 old failures do not outweigh a success, nor old successes ten failures."""
    scenario = Scenario()
    scenario.observe(10_000, provider="claude", status=502)
    scenario.observe(provider="claude")
    assert scenario.evaluate(provider_down) == []

    scenario.observe(10_000, provider="claude")
    scenario.observe(20, provider="claude", status=502)
    (finding,) = scenario.evaluate(provider_down)
    assert finding.severity == "critical"


def test_defect_6_stream_that_fails_after_200_counts_as_a_failure() -> None:
    """The outcome of a stream counts, not the status that was sent before."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", status=200, outcome="error")

    (finding,) = scenario.evaluate(provider_down)

    assert finding.severity == "critical"
