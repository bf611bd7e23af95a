"""The whole chain for real: gateway, Prometheus with the files, Alertmanager, and who is told."""

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

Told = tuple[str, str, str]  # status, name, provider


class Gateway:
    """Two providers, one of which may be down."""

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
            settings=Settings(limit="1000000/minute"),
            engine=AlertEngine(sinks=[]),
            metrics=metrics,
        )
        pulse.install(self.app)

    async def _claude(self, request: Request) -> Response:
        return JSONResponse({}, status_code=503 if self.down else 200)

    async def _codex(self, request: Request) -> Response:
        return JSONResponse({"usage": {"prompt_tokens": 4, "completion_tokens": 2}})


def faster(text: str) -> str:
    """The same settings, in which a minute takes a second, and a scrape one as well."""
    text = re.sub(r"(_interval|_wait): \d+s", r"\1: 1s", text)
    text = re.sub(r"group_interval: \d+m", "group_interval: 1s", text)
    text = re.sub(r"for: (\d+)m", r"for: \1s", text)
    return re.sub(r"\[(\d+)m\]", r"[\1s]", text)


def change(file: Path, *changes: Callable[[str], str]) -> None:
    """Edit a file as a user would."""
    text = file.read_text()
    for each in changes:
        text = each(text)
    file.write_text(text)


@pytest.fixture
def told() -> Iterator[Receiver]:
    """Who is on call."""
    with Receiver() as receiver:
        yield receiver


@contextmanager
def watched(directory: Path, gateway: str, webhook: str) -> Iterator[None]:
    """A real Prometheus and a real Alertmanager that run on the files."""
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
    receiver = "http://host.docker.internal:5001/alerts"
    change(
        directory / "alertmanager/alertmanager.yml",
        faster,
        lambda text: text.replace(receiver, webhook),
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


def told_of(receiver: Receiver) -> set[Told]:
    """What has arrived about providers."""
    alerts = [alert for request in receiver.received for alert in request.json["alerts"]]
    return {
        (alert["status"], alert["labels"]["alertname"], alert["labels"]["provider"])
        for alert in alerts
        if "provider" in alert["labels"]
    }


@pytest.mark.server
def test_an_outage_is_told_and_its_end_too(
    tmp_path: Path, metrics: HttpMetrics, told: Receiver
) -> None:
    """A provider fails under load: people are told so, of nobody else, and when it is over."""
    gateway = Gateway(metrics)

    with (
        LocalServer(gateway.app) as server,
        watched(tmp_path, server.url.removeprefix("http://"), told.url),
        # On connections of their own: a server may be closing one that was idle for long.
        httpx2.Client(
            base_url=server.url, headers={"connection": "close"}, timeout=PATIENCE
        ) as client,
    ):

        def load_until(alert: Told) -> None:
            def arrives() -> bool:
                for provider in ("claude", "codex"):
                    client.post(f"/{provider}/chat")
                return alert in told_of(told)

            wait_until(arrives, f"{alert} does not arrive")

        gateway.down = True
        load_until(("firing", "HighErrorRate", "claude"))
        gateway.down = False
        load_until(("resolved", "HighErrorRate", "claude"))

    alerts = [each for request in told.received for each in request.json["alerts"]]
    errors = [each for each in alerts if each["labels"]["alertname"] == "HighErrorRate"]
    assert len({each["startsAt"] for each in errors}) == 1
    assert all(each["labels"]["severity"] == "critical" for each in errors)
    assert {provider for _, _, provider in told_of(told)} == {"claude"}
