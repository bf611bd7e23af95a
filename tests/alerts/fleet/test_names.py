"""Readable names of tenants and credentials in a fleet."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.rules import error_spike, provider_down

from ..exchanges import exchange
from .replicas import Replica, Replicas

pytestmark = pytest.mark.anyio

FAILURE = {
    "tenant": "7",
    "tenant_name": "Acme",
    "api_key": "k1",
    "provider": "claude",
    "credential": "c1",
    "credential_group": "claude-prod",
    "status": 502,
}


def events_of(events: list[AlertEvent]) -> dict[str, str]:
    """Return the message of each event by its fingerprint."""
    return {event.fingerprint: event.finding.message.partition(" has ")[0] for event in events}


async def failing_fleet() -> tuple[Replicas, Replica, Replica]:
    """Return a leader, and another process of which a credential fails."""
    replicas = Replicas()
    first, second = replicas.replicas(2, rules=[provider_down, error_spike])
    await replicas.beat()
    for _ in range(10):
        second.observe(exchange(**FAILURE))
    return replicas, first, second


async def test_names_travel_to_the_leader() -> None:
    """The leader names what only another process has seen."""
    replicas, _, second = await failing_fleet()
    second.observe(exchange(api_key="k2", tenant="7"))

    events = await replicas.evaluate()

    assert events_of(events) == {
        "provider_down:apikey:c1": "API Key ID c1 in group 'claude-prod'",
    }


async def test_names_survive_the_leader() -> None:
    """The next leader names the subjects of the stored traffic."""
    replicas, first, second = await failing_fleet()
    await replicas.evaluate()
    replicas.kill(first)
    await replicas.run(30)
    assert second.leads
    for status in [500, 200] * 10:  # not down, so its failures are not inhibited
        second.observe(exchange(api_key="k1", status=status, credential="c2"))

    events = await replicas.evaluate()

    assert events_of(events)["error_spike:key:k1"] == "Key ID k1 (Master 'Acme', ID: 7)"
    (spike,) = [event for event in events if event.finding.type == "error_spike"]
    assert spike.finding.metadata["upstream_groups"] == {"apikey:c1": "claude-prod"}


async def test_leader_knows_the_names_of_all_tenants() -> None:
    """Another process knows those that it has served."""
    replicas, first, second = await failing_fleet()
    first.observe(exchange(tenant="8", tenant_name="Zeta"))
    await replicas.evaluate()

    assert [first.tenant_name(tenant) for tenant in ("7", "8", "9")] == ["Acme", "Zeta", None]
    assert [second.tenant_name(tenant) for tenant in ("7", "8", "9")] == ["Acme", None, None]
    assert first.tenant_names() == {"7": "Acme", "8": "Zeta"}
    second.observe(exchange(tenant="6", tenant_name="Beta"))
    assert second.tenant_names() == {"6": "Beta", "7": "Acme"}
    assert second.tenant_names(limit=1) == {"6": "Beta"}
