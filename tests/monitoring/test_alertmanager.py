"""The Alertmanager's settings, in a real one."""

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
    """An Alertmanager with these settings, alone."""
    options = [
        f"--config.file={written / 'alertmanager' / 'alertmanager.yml'}",
        "--storage.path=data",
        "--cluster.listen-address=",
        "--web.listen-address=127.0.0.1:{port}",
    ]
    server = Server(["prometheus-alertmanager", *options], tmp_path)
    yield from started(server, "prometheus-alertmanager")


def alert(name: str, severity: str, provider: str | None = None) -> dict[str, dict[str, str]]:
    """An alert as the rules make them."""
    labels = {"alertname": name, "service": "tokenpulse", "severity": severity}
    return {"labels": labels if provider is None else {**labels, "provider": provider}}


def told_of(server: Server, *alerts: dict[str, dict[str, str]]) -> set[str]:
    """Of which alerts people are told when all of these fire."""
    alertmanager = f"http://{server.place}/api/v2/alerts"

    def are_routed() -> bool:
        found = httpx2.get(alertmanager, timeout=PATIENCE).json()
        states = [each["status"]["state"] for each in found]
        return len(states) == len(alerts) and "unprocessed" not in states

    httpx2.post(alertmanager, json=alerts, timeout=PATIENCE).raise_for_status()
    wait_until(are_routed, "they do not arrive")
    told = httpx2.get(alertmanager, params={"inhibited": "false"}, timeout=PATIENCE).json()
    return {" ".join(each["labels"].get(k, "") for k in ("alertname", "provider")) for each in told}


@pytest.mark.slow
def test_amtool_has_no_complaint(written: Path) -> None:
    """It reads routes, receivers and inhibitions."""
    need("amtool", "prometheus-alertmanager")
    file = written / "alertmanager" / "alertmanager.yml"

    said = subprocess.check_output(["amtool", "check-config", file], text=True, timeout=PATIENCE)

    assert "2 inhibit rules" in said


def test_a_gateway_that_is_down_says_it_all(server: Server) -> None:
    """Its other alerts are silent; those of another service are not."""
    other = {"labels": {"alertname": "DiskFull", "service": "database", "severity": "critical"}}

    told = told_of(
        server,
        alert("TokenPulseDown", "critical"),
        alert("TokenPulseInstanceDown", "warning"),
        alert("HighErrorRate", "critical", "claude"),
        other,
    )

    assert told == {"TokenPulseDown ", "DiskFull "}


def test_a_critical_alert_silences_warnings_of_its_provider(server: Server) -> None:
    """Not those of other providers, nor those of none, nor the one that may be the cause."""
    told = told_of(
        server,
        alert("HighErrorRate", "critical", "claude"),
        alert("HighLatency", "warning", "claude"),
        alert("CredentialsInactive", "warning", "claude"),
        alert("HighLatency", "warning", "codex"),
        alert("EvaluationsStopped", "critical"),
        alert("SelfErrors", "warning"),
    )

    assert told == {
        "HighErrorRate claude",
        "CredentialsInactive claude",
        "HighLatency codex",
        "EvaluationsStopped ",
        "SelfErrors ",
    }
