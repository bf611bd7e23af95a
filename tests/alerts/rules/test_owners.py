"""Names of tenants in the alerts of quotas and budgets."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tokenpulse_mw import Limiter, Policy, keys
from tokenpulse_mw.alerts import AlertEngine, AlertEvent
from tokenpulse_mw.alerts.rules import Budget, Quota, budget, quota_exceeded
from tokenpulse_mw.ratelimit import budgets, quotas

from ..exchanges import exchange
from .scenario import Scenario

ACME: dict[str, Any] = {"tenant": "7", "tenant_name": "Acme"}


@pytest.mark.parametrize(
    ("observed", "key", "owner", "name"),
    [
        ({"api_key": "k1", **ACME}, "k1", " (Master 'Acme', ID: 7)", "Acme"),
        (ACME, "7", " (Master 'Acme')", "Acme"),
        ({"api_key": "7", **ACME}, "7", " (Master 'Acme')", "Acme"),
        (ACME, "k1", "", ""),
        ({"tenant": "7"}, "7", "", ""),
        ({"tenant": "7", "tenant_name": "A'\n"}, "7", """ (Master "A'\\n")""", "A'\n"),
        ({"tenant": "__overflow__", "tenant_name": "Acme"}, "__overflow__", "", ""),
    ],
)
def test_key_of_a_limit_has_the_name_of_its_tenant(
    observed: dict[str, Any], key: str, owner: str, name: str
) -> None:
    """The key is the id of a tenant, or of an API key that was annotated with a tenant."""
    scenario = Scenario()
    scenario.observe(**observed)
    of_quotas = quota_exceeded(lambda: [Quota(key, 95, 100)])
    of_budgets = budget(lambda: [Budget(key, 19, 20, "dollars")])
    anyio.run(of_quotas.refresh)
    anyio.run(of_budgets.refresh)

    (quota,), (money,) = scenario.evaluate(of_quotas), scenario.evaluate(of_budgets)

    if key != "__overflow__":
        assert quota.message == f"Key ID {key}{owner} has used 95/100 tokens (95.0%)"
        assert quota.subject.name == name
    assert money.message.startswith(f"Budget {key!r}{owner} of policy dollars has used 19.00 ")
    assert money.subject.name == name
    assert quota.metadata.get("master_name", "") == money.metadata.get("master_name", "") == name
    assert (quota.fingerprint, money.fingerprint) == (
        f"quota_exceeded:key:{key}",
        f"budget:dollars:{key}",
    )


def test_key_that_is_also_the_id_of_another_tenant_has_no_name() -> None:
    """A wrong name would be worse than none."""
    scenario = Scenario()
    scenario.observe(**ACME)
    scenario.observe(api_key="7", tenant="8", tenant_name="Zeta")
    rule = quota_exceeded(lambda: [Quota("7", 95, 100)])
    anyio.run(rule.refresh)

    (finding,) = scenario.evaluate(rule)

    assert finding.message == "Key ID 7 has used 95/100 tokens (95.0%)"


@pytest.mark.parametrize(
    ("tenant", "owner"), [("7", " (Master 'Acme', ID: 7)"), ("8", " (Master 8)")]
)
def test_tenant_of_the_source_precedes_that_of_the_traffic(tenant: str, owner: str) -> None:
    """A source that names the tenant knows it; its name is that of the traffic."""
    scenario = Scenario()
    scenario.observe(**ACME)
    scenario.observe(api_key="k1", tenant="9", tenant_name="Zeta")
    rule = quota_exceeded(lambda: [Quota("k1", 95, 100, tenant)])
    anyio.run(rule.refresh)

    (finding,) = scenario.evaluate(rule)

    assert finding.message == f"Key ID k1{owner} has used 95/100 tokens (95.0%)"
    assert finding.metadata["master"] == tenant


def test_limits_by_tenant_have_the_names_of_their_tenants() -> None:
    """The keys of real limits are the ids that the application annotates."""
    tokens = Policy("100/day", name="tokens", key=keys.annotation("tenant"), tokens=10)
    dollars = Policy("20 USD/day", name="dollars", key=keys.annotation("tenant"))
    for policy, used in ((tokens, 95), (dollars, 19_000_000)):
        assert isinstance(policy.limiter, Limiter)
        policy.limiter.hit("7", used)
    engine = AlertEngine([quota_exceeded(quotas([tokens])), budget(budgets([dollars]))], [])
    engine.observe(exchange(**ACME))

    events: list[AlertEvent] = anyio.run(engine.evaluate)

    assert sorted(event.finding.message for event in events) == [
        "Budget '7' (Master 'Acme') of policy dollars has used 19.00 of 20.00 USD (95.0 %)",
        "Key ID 7 (Master 'Acme') has used 95/100 tokens (95.0%)",
    ]
