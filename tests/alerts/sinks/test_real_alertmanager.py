"""AlertmanagerSink with a real Alertmanager and the receiver of its notifications."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import httpx2
import pytest

from tokenpulse_mw.alerts import AlertEvent, Severity, Subject
from tokenpulse_mw.alerts.sinks import AlertmanagerSink, RetryLater

from ...support.receiver import Receiver
from ...support.servers import Server, need
from ...support.waiting import PATIENCE, wait_until
from .events import event


def firing_now(*severities: Severity, **fields: Any) -> list[AlertEvent]:
    """Return events of the current time, one for each severity."""
    return [event(severity=severity, at=time.time(), **fields) for severity in severities]


def active_alerts(server: Server) -> list[dict[str, Any]]:
    """Return the active alerts of the Alertmanager."""
    response = httpx2.get(f"http://{server.place}/api/v2/alerts", timeout=PATIENCE)
    alerts: list[dict[str, Any]] = response.json()
    return alerts


def severities_of(server: Server) -> list[str]:
    """Return the severities of the active alerts."""
    return sorted(alert["labels"]["severity"] for alert in active_alerts(server))


def notifications(receiver: Receiver) -> list[tuple[str, str]]:
    """Return the state and severity of each alert in each notification."""
    alerts = [alert for request in receiver.received for alert in request.json["alerts"]]
    return [(alert["status"], alert["labels"]["severity"]) for alert in alerts]


def is_ready(server: Server) -> bool:
    """Return True if the Alertmanager accepts alerts."""
    return httpx2.get(f"http://{server.place}/-/ready", timeout=PATIENCE).status_code == 200


@pytest.mark.anyio
async def test_alert_fires_and_is_resolved(server: Server, receiver: Receiver) -> None:
    """Alertmanager notifies of both, and stores the labels, annotations and start."""
    began = time.time() - 30
    sink = AlertmanagerSink(
        f"http://{server.place}",
        labels={"cluster": "eu-1"},
        generator_url="http://gateway.test/alerts?a=b&c=d",
    )
    (fired,) = firing_now("critical", subject=Subject("key", "k1", "Acme"), fired_at=began)
    await sink(fired)
    wait_until(lambda: notifications(receiver) == [("firing", "critical")], "it does not fire")
    (alert,) = active_alerts(server)

    resolved = event(
        "resolved", "critical", at=time.time(), subject=Subject("key", "k1"), fired_at=began
    )
    await sink(resolved)
    await sink.aclose()

    wait_until(lambda: ("resolved", "critical") in notifications(receiver), "it is not resolved")
    assert active_alerts(server) == []
    assert alert["labels"] == {
        "alertname": "error_spike",
        "severity": "critical",
        "subject_kind": "key",
        "subject_id": "k1",
        "cluster": "eu-1",
    }
    assert alert["annotations"]["subject_name"] == "Acme"
    assert alert["generatorURL"] == "http://gateway.test/alerts?a=b&c=d"
    assert alert["startsAt"][:19] == time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began))


@pytest.mark.anyio
async def test_change_of_severity_leaves_one_active_alert(
    server: Server, receiver: Receiver
) -> None:
    """An escalation and a deescalation each resolve the alert of the old severity."""
    sink = AlertmanagerSink(f"http://{server.place}")
    began = time.time() - 30
    await sink(event(at=began))
    wait_until(lambda: severities_of(server) == ["warning"], "it does not fire")

    await sink(event("escalated", "critical", at=time.time(), previous="warning", fired_at=began))
    wait_until(lambda: severities_of(server) == ["critical"], "both fire")

    await sink(event("deescalated", "warning", at=time.time(), previous="critical", fired_at=began))
    wait_until(lambda: severities_of(server) == ["warning"], "both fire")
    await sink.aclose()
    wait_until(lambda: ("resolved", "critical") in notifications(receiver), "it is not resolved")


# Only Alertmanager waits, so the event loop of the gateway makes no difference.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_alert_expires_if_it_is_not_resent(server: Server, receiver: Receiver) -> None:
    """An alert that is not resent is resolved after four times `resend_every`."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=2)
    (fired,) = firing_now("warning")
    await sink(fired)
    await sink.aclose()

    wait_until(lambda: ("resolved", "warning") in notifications(receiver), "it does not expire")
    assert notifications(receiver)[0] == ("firing", "warning")
    assert time.time() - fired.at >= 8


@pytest.mark.anyio
async def test_resent_alert_stays_active_without_another_notification(
    server: Server, receiver: Receiver
) -> None:
    """Each `resend` extends the end of an alert, and Alertmanager notifies only once."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=60)
    firing = firing_now("warning")
    await sink(firing[0])
    ends = [active_alerts(server)[0]["endsAt"]]

    for number in (1, 2, 3):
        await sink.resend(firing, time.time() + 60 * number)
        wait_until(lambda: active_alerts(server)[0]["endsAt"] > ends[-1], "its end is not extended")
        ends.append(active_alerts(server)[0]["endsAt"])
    await sink.aclose()

    assert notifications(receiver) == [("firing", "warning")]


@pytest.mark.anyio
async def test_restarted_alertmanager_gets_firing_alerts_by_resend(
    server: Server, receiver: Receiver
) -> None:
    """Alertmanager loses its alerts in a restart, and the next `resend` restores them."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=0.001)
    firing = firing_now("warning", "critical")
    server.kill()
    with pytest.raises(RetryLater):
        await sink(firing[0])
    with pytest.raises(RetryLater):
        await sink.resend(firing, time.time())

    server.start()
    wait_until(lambda: is_ready(server), "it is not ready")
    sink = AlertmanagerSink(f"http://{server.place}")
    await sink.resend(firing, time.time())
    await sink.aclose()

    assert severities_of(server) == ["critical", "warning"]


@pytest.mark.anyio
async def test_any_name_of_a_tenant_is_accepted(server: Server) -> None:
    """Alertmanager accepts unusual ids as different alerts, and alerts that end at their start."""
    ids = ["", " ", "a\nb", "\ud800", "\u202ex", '"{}', "K\u00e9y \u26a1", "x" * 500, "x" * 501]
    sink = AlertmanagerSink(f"http://{server.place}")
    now = time.time()
    events = [
        event(at=now, subject=Subject("key", identity, identity), title=identity, message=identity)
        for identity in ids
    ]
    await sink.resend(events, now)
    await sink(event("resolved", at=now, fired_at=now))
    await sink(event("resolved", at=now, fired_at=now + 60))
    await sink.aclose()

    wait_until(lambda: len(active_alerts(server)) == len(ids), "some are missing")


@pytest.mark.anyio
async def test_amtool_finds_an_alert_by_its_labels(server: Server) -> None:
    """Users can query alerts by their labels with amtool."""
    need("amtool", "prometheus-alertmanager")
    sink = AlertmanagerSink(f"http://{server.place}")
    for fired in firing_now("warning", "critical", subject=Subject("provider", "claude")):
        await sink(fired)
    await sink.aclose()

    command = [
        "amtool",
        f"--alertmanager.url=http://{server.place}",
        "--output=json",
        "alert",
        "query",
    ]
    result = await anyio.run_process([*command, "provider=claude", "severity=critical"])

    assert [alert["labels"]["alertname"] for alert in json.loads(result.stdout)] == ["error_spike"]
