"""Configuration of Alertmanager, in a real Alertmanager."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ..support.servers import Server, need, started
from ..support.waiting import PATIENCE, wait_until


@pytest.fixture
def server(written: Path, tmp_path: Path) -> Iterator[Server]:
    """Run a single Alertmanager with the configuration."""
    options = [
        f"--config.file={written / 'alertmanager' / 'alertmanager.yml'}",
        "--storage.path=data",
        "--cluster.listen-address=",
        "--web.listen-address=127.0.0.1:{port}",
    ]
    server = Server(["prometheus-alertmanager", *options], tmp_path)
    yield from started(server, "prometheus-alertmanager")


def alert(name: str, severity: str, provider: str | None = None) -> dict[str, dict[str, str]]:
    """Return an alert as created by the rules."""
    labels = {"alertname": name, "service": "tokenpulse", "severity": severity}
    return {"labels": labels if provider is None else {**labels, "provider": provider}}


def notified_alerts(server: Server, *alerts: dict[str, dict[str, str]]) -> set[str]:
    """Return the alerts that are not inhibited if all of `alerts` fire."""
    url = f"http://{server.place}/api/v2/alerts"

    def are_routed() -> bool:
        current = httpx2.get(url, timeout=PATIENCE).json()
        states = [alert["status"]["state"] for alert in current]
        return len(states) == len(alerts) and "unprocessed" not in states

    httpx2.post(url, json=alerts, timeout=PATIENCE).raise_for_status()
    wait_until(are_routed, "the alerts are not routed")
    active = httpx2.get(url, params={"inhibited": "false"}, timeout=PATIENCE).json()
    return {
        " ".join(alert["labels"].get(name, "") for name in ("alertname", "provider"))
        for alert in active
    }


@pytest.mark.slow
def test_amtool_accepts_the_configuration(written: Path) -> None:
    """Routes, receivers and inhibition rules are valid."""
    need("amtool", "prometheus-alertmanager")
    file = written / "alertmanager" / "alertmanager.yml"

    output = subprocess.check_output(["amtool", "check-config", file], text=True, timeout=PATIENCE)

    assert "2 inhibit rules" in output


def test_gateway_down_inhibits_other_alerts(server: Server) -> None:
    """Alerts of other services are not inhibited."""
    other = {"labels": {"alertname": "DiskFull", "service": "database", "severity": "critical"}}

    notified = notified_alerts(
        server,
        alert("TokenPulseDown", "critical"),
        alert("TokenPulseInstanceDown", "warning"),
        alert("HighErrorRate", "critical", "claude"),
        other,
    )

    assert notified == {"TokenPulseDown ", "DiskFull "}


def test_critical_alert_inhibits_warnings_of_its_provider(server: Server) -> None:
    """Other providers, alerts without a provider and a possible cause are not inhibited."""
    notified = notified_alerts(
        server,
        alert("HighErrorRate", "critical", "claude"),
        alert("HighLatency", "warning", "claude"),
        alert("CredentialsInactive", "warning", "claude"),
        alert("HighLatency", "warning", "codex"),
        alert("EvaluationsStopped", "critical"),
        alert("InternalErrors", "warning"),
    )

    assert notified == {
        "HighErrorRate claude",
        "CredentialsInactive claude",
        "HighLatency codex",
        "EvaluationsStopped ",
        "InternalErrors ",
    }


def test_used_up_limit_inhibits_warnings_of_its_provider(server: Server) -> None:
    """The low limit and the 429 responses are consequences; a stalled request is not."""
    notified = notified_alerts(
        server,
        alert("UpstreamQuotaUsedUp", "critical", "claude"),
        alert("UpstreamQuotaLow", "warning", "claude"),
        alert("RateLimitExceeded", "warning", "claude"),
        alert("UpstreamQuotaLow", "warning", "codex"),
        alert("StalledRequest", "warning"),
    )

    assert notified == {"UpstreamQuotaUsedUp claude", "UpstreamQuotaLow codex", "StalledRequest "}
