"""The `rate_limit` and `rate_limit_exceeded` rules."""

from __future__ import annotations

from tokenpulse_mw.alerts import Finding, Subject
from tokenpulse_mw.alerts.rules import rate_limit, rate_limit_exceeded

from .scenario import Scenario, severities


def test_limited_tenant_finding_has_its_count() -> None:
    """The finding has the limited requests since the last evaluation, and those of a minute."""
    scenario = Scenario()
    scenario.observe(27, tenant="7", tenant_name="Acme")
    scenario.observe(3, tenant="7", tenant_name="Acme", limited=True)

    (finding,) = scenario.evaluate(rate_limit)

    assert finding == Finding(
        type="rate_limit",
        subject=Subject("master", "7", "Acme"),
        severity="warning",
        title="Master 'Acme' is rate limited",
        message="Master 'Acme' (ID: 7) is currently being rate limited. Current QPS: 0.50",
        value=3,
        metadata={"limited": 3, "qps": 0.5},
        keep_firing=900,
    )
    assert finding.fingerprint == "rate_limit:master:7"


def test_tenant_without_name_is_named_by_its_id() -> None:
    """The id appears once, in quotes."""
    scenario = Scenario()
    scenario.observe(tenant="acme", limited=True)

    (finding,) = scenario.evaluate(rate_limit)

    assert finding.subject == Subject("master", "acme")
    assert finding.message.startswith("Master 'acme' is currently being rate limited.")


def test_defect_13_limited_request_between_evaluations_is_found_once() -> None:
    """The next evaluation finds the limited request, the one after it does not."""
    scenario = Scenario()
    scenario.observe(now=1, tenant="acme", limited=True)

    assert severities(scenario.evaluate(rate_limit, now=59)) == {
        "rate_limit:master:acme": "warning"
    }
    assert scenario.evaluate(rate_limit, now=119) == []


def test_provider_with_many_429_finding_has_its_numbers() -> None:
    """The finding has the share of the gateway's own limit and must last for two minutes."""
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
            keep_firing=900,
        )
    ]
