"""AlertmanagerSink with a real Alertmanager: what it holds, and what it tells."""

from __future__ import annotations

import json
import time
from typing import Any

import anyio
import httpx2
import pytest

from tokenpulse_mw.alerts import Severity, Subject
from tokenpulse_mw.alerts.sinks import AlertmanagerSink, RetryLater

from ...support.receiver import Receiver
from ...support.servers import Server, need
from ...support.waiting import PATIENCE, wait_until
from .events import event


def now_firing(*severities: Severity, **fields: Any) -> list[Any]:
    """Events of now, one for each severity."""
    return [event(severity=each, at=time.time(), **fields) for each in severities]


def held(server: Server) -> list[dict[str, Any]]:
    """The alerts that the Alertmanager holds to be firing."""
    answer = httpx2.get(f"http://{server.place}/api/v2/alerts", timeout=PATIENCE)
    found: list[dict[str, Any]] = answer.json()
    return found


def severities(server: Server) -> list[str]:
    """Of the alerts that the Alertmanager holds to be firing."""
    return sorted(each["labels"]["severity"] for each in held(server))


def notified(receiver: Receiver) -> list[tuple[str, str]]:
    """What people were told: of each alert its state and severity, and no more than once."""
    alerts = [alert for request in receiver.received for alert in request.json["alerts"]]
    return [(each["status"], each["labels"]["severity"]) for each in alerts]


@pytest.mark.anyio
async def test_an_alert_fires_and_is_resolved(server: Server, receiver: Receiver) -> None:
    """People are told of both; Alertmanager has its labels, its annotations and its beginning."""
    began = time.time() - 30
    sink = AlertmanagerSink(
        f"http://{server.place}",
        labels={"cluster": "eu-1"},
        generator_url="http://gateway.test/alerts?a=b&c=d",
    )
    (fired,) = now_firing("critical", subject=Subject("key", "k1", "Acme"), fired_at=began)
    await sink(fired)
    wait_until(lambda: notified(receiver) == [("firing", "critical")], "it does not fire")
    (alert,) = held(server)

    (resolved,) = (
        event("resolved", "critical", at=time.time(), subject=Subject("key", "k1"), fired_at=began),
    )
    await sink(resolved)
    await sink.aclose()

    wait_until(lambda: ("resolved", "critical") in notified(receiver), "it is not resolved")
    assert held(server) == []
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
async def test_a_change_of_severity_leaves_one_alert(server: Server, receiver: Receiver) -> None:
    """The old one is over when the new one begins, there and back."""
    sink = AlertmanagerSink(f"http://{server.place}")
    began = time.time() - 30
    await sink(event(at=began))
    wait_until(lambda: severities(server) == ["warning"], "it does not fire")

    await sink(event("escalated", "critical", at=time.time(), previous="warning", fired_at=began))
    wait_until(lambda: severities(server) == ["critical"], "both fire")

    await sink(event("deescalated", "warning", at=time.time(), previous="critical", fired_at=began))
    wait_until(lambda: severities(server) == ["warning"], "both fire")
    await sink.aclose()
    wait_until(lambda: ("resolved", "critical") in notified(receiver), "nobody is told")


# Alertmanager does the waiting, which is the same for each event loop of the gateway.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_alert_of_a_gateway_that_died_ends_by_itself(
    server: Server, receiver: Receiver
) -> None:
    """It lasts for four times as long as it takes until it should have been sent again."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=2)
    (fired,) = now_firing("warning")
    await sink(fired)
    await sink.aclose()

    wait_until(lambda: ("resolved", "warning") in notified(receiver), "it does not end")
    assert notified(receiver)[0] == ("firing", "warning")
    assert time.time() - fired.at >= 8


@pytest.mark.anyio
async def test_an_alert_that_is_sent_again_lasts(server: Server, receiver: Receiver) -> None:
    """Its end moves on with every time, and nobody is told twice."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=60)
    firing = now_firing("warning")
    await sink(firing[0])
    ends = [held(server)[0]["endsAt"]]

    for number in (1, 2, 3):
        await sink.resend(firing, time.time() + 60 * number)
        wait_until(lambda: held(server)[0]["endsAt"] > ends[-1], "its end does not move")
        ends.append(held(server)[0]["endsAt"])
    await sink.aclose()

    assert notified(receiver) == [("firing", "warning")]


@pytest.mark.anyio
async def test_an_alertmanager_that_was_down_has_what_fires_again(
    server: Server, receiver: Receiver
) -> None:
    """It keeps no alerts over a restart; the next round brings them."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=0.001)
    firing = now_firing("warning", "critical")
    server.kill()
    with pytest.raises(RetryLater):
        await sink(firing[0])
    with pytest.raises(RetryLater):
        await sink.resend(firing, time.time())

    server.start()
    wait_until(lambda: ready(server), "it is not ready")
    sink = AlertmanagerSink(f"http://{server.place}")
    await sink.resend(firing, time.time())
    await sink.aclose()

    assert severities(server) == ["critical", "warning"]


def ready(server: Server) -> bool:
    """Whether it takes alerts."""
    return httpx2.get(f"http://{server.place}/-/ready", timeout=PATIENCE).status_code == 200


@pytest.mark.anyio
async def test_it_takes_what_the_names_of_tenants_may_be(server: Server) -> None:
    """All of a batch, each as an alert of its own; an alert that is over at once as well."""
    ids = ["", " ", "a\nb", "\ud800", "\u202ex", '"{}', "K\u00e9y \u26a1", "x" * 500, "x" * 501]
    sink = AlertmanagerSink(f"http://{server.place}")
    now = time.time()
    events = [
        event(at=now, subject=Subject("key", each, each), title=each, message=each) for each in ids
    ]
    await sink.resend(events, now)
    await sink(event("resolved", at=now, fired_at=now))
    await sink(event("resolved", at=now, fired_at=now + 60))
    await sink.aclose()

    wait_until(lambda: len(held(server)) == len(ids), "some are missing")


@pytest.mark.anyio
async def test_amtool_finds_an_alert_by_its_labels(server: Server) -> None:
    """So that people can look for it, and silence it."""
    need("amtool", "prometheus-alertmanager")
    sink = AlertmanagerSink(f"http://{server.place}")
    for fired in now_firing("warning", "critical", subject=Subject("provider", "claude")):
        await sink(fired)
    await sink.aclose()

    command = [
        "amtool",
        f"--alertmanager.url=http://{server.place}",
        "--output=json",
        "alert",
        "query",
    ]
    found = await anyio.run_process([*command, "provider=claude", "severity=critical"])

    assert [each["labels"]["alertname"] for each in json.loads(found.stdout)] == ["error_spike"]
