"""Inhibition of error rates that an outage explains."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import Finding, Subject
from tokenpulse_mw.alerts.rules import (
    error_spike,
    high_error_rate,
    inhibited,
    outages,
    provider_down,
)

from .scenario import Scenario, findings_of, severities

CLAUDE: dict[str, Any] = {"api_key": "k1", "provider": "claude", "status": 502}
GEMINI: dict[str, Any] = {"api_key": "k1", "provider": "gemini", "status": 502}


def findings(*exchanges: tuple[int, dict[str, Any]]) -> list[Finding]:
    """Return the findings of the three rules about failures after these exchanges."""
    scenario = Scenario()
    for times, fields in exchanges:
        scenario.observe(times, **fields)
    return [
        finding
        for rule in (error_spike, high_error_rate, provider_down)
        for finding in findings_of(rule, scenario.traffic, scenario.thresholds)
    ]


def apply_inhibition(found: list[Finding]) -> list[Finding]:
    """Return the findings, inhibited by the outages among them."""
    return inhibited(iter(found), down=outages(found))


@pytest.mark.parametrize(
    ("exchanges", "expected"),
    [
        pytest.param(
            [(20, CLAUDE)],
            {
                "error_spike:key:k1": None,
                "high_error_rate:provider:claude": None,
                "provider_down:provider:claude": "critical",
            },
            id="provider is down",
        ),
        pytest.param(
            [
                (100, {"provider": "claude", "credential": "c2"}),
                (20, CLAUDE | {"credential": "c1"}),
            ],
            {
                "error_spike:key:k1": None,
                "high_error_rate:provider:claude": None,
                "provider_down:apikey:c1": "critical",
            },
            id="one credential is down",
        ),
        pytest.param(
            [(10, CLAUDE | {"status": 200}), (9, CLAUDE)],
            {
                "error_spike:key:k1": "warning",
                "high_error_rate:provider:claude": "critical",
                "provider_down:provider:claude": None,
            },
            id="provider is not down yet",
        ),
        pytest.param(
            [
                (20, CLAUDE),
                *10 * [(1, GEMINI | {"api_key": "k2"}), (1, {"provider": "gemini"})],
                (10, {"api_key": "k3", "status": 500}),
            ],
            {
                "error_spike:key:k1": None,
                "error_spike:key:k2": "critical",
                "error_spike:key:k3": "critical",
                "high_error_rate:provider:claude": None,
                "high_error_rate:provider:gemini": "critical",
                "provider_down:provider:claude": "critical",
            },
            id="failures of another provider and of the gateway",
        ),
    ],
)
def test_error_rates_are_inhibited_only_by_the_outage_they_come_from(
    exchanges: list[tuple[int, dict[str, Any]]], expected: dict[str, str | None]
) -> None:
    """An outage removes the severity of the error rates that it explains, and of no other."""
    assert severities(apply_inhibition(findings(*exchanges))) == expected


@pytest.mark.parametrize(("others", "severity"), [(2, None), (3, "critical")])
def test_outage_behind_less_than_90_percent_of_failures_does_not_inhibit(
    others: int, severity: str | None
) -> None:
    """At most a tenth of the failures may come from upstreams that are not down."""
    result = apply_inhibition(findings((18, CLAUDE), (others, GEMINI)))

    assert severities(result)["error_spike:key:k1"] == severity


def test_inhibited_findings_list_their_causes() -> None:
    """The metadata of inhibited findings contains the fingerprints of the outages."""
    spike, rate, _ = apply_inhibition(findings((20, CLAUDE)))

    for finding in (spike, rate):
        assert finding.metadata["inhibited_by"] == ["provider_down:provider:claude"]


def test_two_outages_inhibit_together() -> None:
    """The failures of a key may come from two providers that are both down."""
    spike, *_ = apply_inhibition(findings((10, CLAUDE), (10, GEMINI)))

    assert (spike.type, spike.severity) == ("error_spike", None)
    assert sorted(spike.metadata["inhibited_by"]) == [
        "provider_down:provider:claude",
        "provider_down:provider:gemini",
    ]


def test_number_and_order_of_findings_stay_the_same() -> None:
    """Findings of other types, and error rates without upstreams, are returned unchanged."""
    other = Finding(
        type="any", subject=Subject("key", "k1"), severity="info", title="any", message="any"
    )
    bare = Finding(
        type="error_spike", subject=Subject("key", "k2"), severity="info", title="", message=""
    )
    before = [other, *findings((20, CLAUDE)), bare]

    after = apply_inhibition(before)

    assert [finding.fingerprint for finding in after] == [finding.fingerprint for finding in before]
    assert (after[0], after[-2], after[-1]) == (other, before[-2], bare)
    assert apply_inhibition([]) == []
