"""Real gateway, Prometheus and Alertmanager with the files, and a webhook receiver."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tokenpulse_mw import AlertEngine, HttpMetrics, Settings, TokenPulse
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.monitoring import write_files

from ..support.receiver import Receiver
from ..support.servers import Server, started
from ..support.waiting import PATIENCE, wait_until

Notification = tuple[str, str, str]  # status, name, provider


class Gateway:
    """Gateway with two providers, one of which may be down."""

    def __init__(self, metrics: HttpMetrics) -> None:
        self.down = False
        self.app = Starlette(
            routes=[
                Route("/claude/chat", self._claude, methods=["POST"]),
                Route("/codex/chat", self._codex, methods=["POST"]),
            ]
        )
        pulse = TokenPulse(
            providers=["claude", "codex"],
            settings=Settings(limit="1000000/minute", price_list="off"),
            engine=AlertEngine(sinks=[]),
            metrics=metrics,
        )
        pulse.install(self.app)

    async def _claude(self, request: Request) -> Response:
        return JSONResponse({}, status_code=503 if self.down else 200)

    async def _codex(self, request: Request) -> Response:
        return JSONResponse({"usage": {"prompt_tokens": 4, "completion_tokens": 2}})


def faster(text: str) -> str:
    """Return the configuration with seconds instead of minutes, and intervals of a second."""
    text = re.sub(r"(_interval|_wait): \d+s", r"\1: 1s", text)
    text = re.sub(r"group_interval: \d+m", "group_interval: 1s", text)
    text = re.sub(r"for: (\d+)m", r"for: \1s", text)
    return re.sub(r"\[(\d+)m\]", r"[\1s]", text)


def change(file: Path, *changes: Callable[[str], str]) -> None:
    """Edit a file."""
    text = file.read_text()
    for edit in changes:
        text = edit(text)
    file.write_text(text)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a webhook receiver."""
    with Receiver() as receiver:
        yield receiver


@contextmanager
def monitoring(directory: Path, gateway: str, webhook: str) -> Iterator[None]:
    """Run Prometheus and Alertmanager with the files."""
    write_files(directory, gateway=gateway)
    alertmanager = Server(
        [
            "prometheus-alertmanager",
            "--config.file=alertmanager/alertmanager.yml",
            "--storage.path=alertmanager-data",
            "--cluster.listen-address=",
            "--web.listen-address=127.0.0.1:{port}",
        ],
        directory,
    )
    prometheus = Server(
        [
            "prometheus",
            "--config.file=prometheus/prometheus.yml",
            "--storage.tsdb.path=prometheus-data",
            "--web.listen-address=127.0.0.1:{port}",
        ],
        directory,
    )
    placeholder = "http://host.docker.internal:5001/alerts"
    change(
        directory / "alertmanager/alertmanager.yml",
        faster,
        lambda text: text.replace(placeholder, webhook),
    )
    change(
        directory / "prometheus/prometheus.yml",
        faster,
        lambda text: text.replace("host.docker.internal", "127.0.0.1"),
        lambda text: text.replace("alertmanager:9093", alertmanager.place),
    )
    change(directory / "prometheus/rules/tokenpulse.rules.yml", faster)
    with (
        contextmanager(started)(alertmanager, "prometheus-alertmanager"),
        contextmanager(started)(prometheus, "prometheus"),
    ):
        yield


def notifications(receiver: Receiver) -> set[Notification]:
    """Return the received notifications with a provider."""
    alerts = [alert for request in receiver.received for alert in request.json["alerts"]]
    return {
        (alert["status"], alert["labels"]["alertname"], alert["labels"]["provider"])
        for alert in alerts
        if "provider" in alert["labels"]
    }


@pytest.mark.server
def test_outage_sends_one_alert_and_its_resolution(
    tmp_path: Path, metrics: HttpMetrics, receiver: Receiver
) -> None:
    """Only the failing provider causes notifications."""
    gateway = Gateway(metrics)

    with (
        LocalServer(gateway.app) as server,
        monitoring(tmp_path, server.url.removeprefix("http://"), receiver.url),
        # New connections: the server may close a connection that was idle.
        httpx2.Client(
            base_url=server.url, headers={"connection": "close"}, timeout=PATIENCE
        ) as client,
    ):

        def load_until(notification: Notification) -> None:
            def arrives() -> bool:
                for provider in ("claude", "codex"):
                    client.post(f"/{provider}/chat")
                return notification in notifications(receiver)

            wait_until(arrives, f"{notification} does not arrive")

        gateway.down = True
        load_until(("firing", "HighErrorRate", "claude"))
        gateway.down = False
        load_until(("resolved", "HighErrorRate", "claude"))

    alerts = [alert for request in receiver.received for alert in request.json["alerts"]]
    errors = [alert for alert in alerts if alert["labels"]["alertname"] == "HighErrorRate"]
    assert len({alert["startsAt"] for alert in errors}) == 1
    assert all(alert["labels"]["severity"] == "critical" for alert in errors)
    assert {provider for _, _, provider in notifications(receiver)} == {"claude"}
