"""Real gateway, Prometheus and Alertmanager with the files, and a webhook receiver."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tokenpulse_mw import AlertEngine, HttpMetrics, Settings, Thresholds, TokenPulse
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.monitoring import write_files

from ..support.receiver import Receiver
from ..support.servers import Server, alertmanager_server, started
from ..support.waiting import PATIENCE, wait_until

Notification = tuple[str, str, str]  # status, name, provider


OPTIONS: dict[str, Any] = {"limit": "1000000/minute", "price_list": "off"}


class Gateway:
    """Gateway with two providers; one may be down, and requests to the other one may hang.

    Attributes:
        down: True if the provider claude is down.
        remaining: Remaining requests of the limit of claude, of 100.
        released: Ends the requests that hang.
    """

    def __init__(self, pulse: TokenPulse) -> None:
        self.down = False
        self.remaining = 90
        self.released = anyio.Event()
        self.app = Starlette(
            routes=[
                Route("/claude/chat", self._claude, methods=["POST"]),
                Route("/codex/chat", self._codex, methods=["POST"]),
                Route("/codex/hanging", self._hanging, methods=["POST"]),
                Route("/codex/release", self._release, methods=["POST"]),
            ]
        )
        pulse.install(self.app)

    async def _claude(self, request: Request) -> Response:
        headers = {
            "x-ratelimit-limit-requests": "100",
            "x-ratelimit-remaining-requests": str(self.remaining),
        }
        return JSONResponse({}, status_code=503 if self.down else 200, headers=headers)

    async def _codex(self, request: Request) -> Response:
        return JSONResponse({"usage": {"prompt_tokens": 4, "completion_tokens": 2}})

    async def _hanging(self, request: Request) -> Response:
        await self.released.wait()
        return JSONResponse({})

    async def _release(self, request: Request) -> Response:
        self.released.set()
        return JSONResponse({})


@contextmanager
def client_of(server: LocalServer) -> Iterator[httpx2.Client]:
    """Return a client that opens a connection for each request.

    The server may close a connection that was idle.
    """
    headers = {"connection": "close"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=PATIENCE) as client:
        yield client


@contextmanager
def hanging_request(client: httpx2.Client) -> Iterator[None]:
    """Keep a request in progress that gets its response after the body."""
    with ThreadPoolExecutor(1) as threads:
        response = threads.submit(client.post, "/codex/hanging")
        try:
            yield
        finally:
            client.post("/codex/release")
        assert response.result().status_code == 200


def faster(text: str) -> str:
    """Return the configuration with seconds instead of minutes, and intervals of a second."""
    text = re.sub(r"(_interval|_wait): \d+s", r"\1: 1s", text)
    text = re.sub(r"group_interval: \d+m", "group_interval: 1s", text)
    text = re.sub(r"for: (\d+)m", r"for: \1s", text)
    return re.sub(r"\[(\d+)m\]", r"[\1s]", text)


def with_short_idle_time(text: str) -> str:
    """Return the rules with a second as the threshold of stalled requests."""
    return re.sub(r"(longest_idle_seconds{.*}) > \d+", r"\1 > 1", text)


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
    change(directory / "prometheus/rules/tokenpulse.rules.yml", faster, with_short_idle_time)
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


def statuses(receiver: Receiver) -> dict[str, list[str]]:
    """Return the received statuses of each alert, in their order."""
    received = defaultdict[str, list[str]](list)
    for request in receiver.received:
        for alert in request.json["alerts"]:
            received[alert["labels"]["alertname"]].append(alert["status"])
    return received


def cause_stall_and_low_limit(
    gateway: Gateway, client: httpx2.Client, receiver: Receiver, names: set[str]
) -> None:
    """Let a request hang and a limit run low until the alerts `names` fire, then end both."""

    def arrive(status: str) -> Callable[[], bool]:
        return lambda: all(status in statuses(receiver)[name] for name in names)

    gateway.remaining = 5
    client.post("/claude/chat")
    with hanging_request(client):
        wait_until(arrive("firing"), f"not all of {names} fire")
    gateway.remaining = 90
    client.post("/claude/chat")
    wait_until(arrive("resolved"), f"not all of {names} are resolved")


@pytest.mark.server
def test_outage_sends_one_alert_and_its_resolution(
    tmp_path: Path, metrics: HttpMetrics, receiver: Receiver
) -> None:
    """Only the failing provider causes notifications."""
    gateway = Gateway(
        TokenPulse(
            providers=["claude", "codex"],
            settings=Settings(**OPTIONS),
            engine=AlertEngine(sinks=[]),
            metrics=metrics,
        )
    )

    with (
        LocalServer(gateway.app) as server,
        monitoring(tmp_path, server.url.removeprefix("http://"), receiver.url),
        client_of(server) as client,
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
    description = errors[0]["annotations"]["description"]
    assert description.endswith("Most failures have the fault provider.")
    assert {provider for _, _, provider in notifications(receiver)} == {"claude"}


@pytest.mark.server
def test_stalled_request_and_low_limit_send_one_alert_each_and_its_resolution(
    tmp_path: Path, metrics: HttpMetrics, receiver: Receiver
) -> None:
    """The rules of Prometheus notify once when each problem begins, and once when it has ended."""
    gateway = Gateway(
        TokenPulse(
            providers=["claude", "codex"],
            settings=Settings(**OPTIONS),
            engine=AlertEngine(sinks=[]),
            metrics=metrics,
        )
    )
    names = {"StalledRequest", "UpstreamQuotaLow"}

    with (
        LocalServer(gateway.app) as server,
        monitoring(tmp_path, server.url.removeprefix("http://"), receiver.url),
        client_of(server) as client,
    ):
        cause_stall_and_low_limit(gateway, client, receiver, names)

    alerts = {
        alert["labels"]["alertname"]: alert
        for request in receiver.received
        for alert in request.json["alerts"]
    }
    assert all(statuses(receiver)[name] == ["firing", "resolved"] for name in names)
    assert alerts["StalledRequest"]["labels"]["phase"] == "waiting"
    assert "no byte of its response" in alerts["StalledRequest"]["annotations"]["description"]
    assert alerts["UpstreamQuotaLow"]["labels"]["provider"] == "claude"
    assert alerts["UpstreamQuotaLow"]["annotations"]["description"].startswith("5% of the requests")


@pytest.mark.server
def test_engine_sends_stalled_request_and_low_limit_once_to_alertmanager(
    tmp_path: Path, metrics: HttpMetrics, receiver: Receiver
) -> None:
    """The rules of the gateway notify through Alertmanager, without Prometheus."""
    alertmanager = alertmanager_server(tmp_path, receiver.url)
    gateway = Gateway(
        TokenPulse(
            providers=["claude", "codex"],
            settings=Settings(
                **OPTIONS,
                alert_interval=0.3,
                alert_alertmanager_url=f"http://{alertmanager.place}",
            ),
            thresholds=Thresholds(stalled_first_byte=1, keep_firing=0),
            metrics=metrics,
        )
    )
    names = {"stalled_request", "upstream_quota_low"}

    with (
        contextmanager(started)(alertmanager, "prometheus-alertmanager"),
        LocalServer(gateway.app) as server,
        client_of(server) as client,
    ):
        cause_stall_and_low_limit(gateway, client, receiver, names)

    alerts = {
        alert["labels"]["alertname"]: alert
        for request in receiver.received
        for alert in request.json["alerts"]
    }
    assert statuses(receiver) == {name: ["firing", "resolved"] for name in names}
    assert alerts["stalled_request"]["labels"]["subject_id"] == "/codex/hanging"
    assert alerts["upstream_quota_low"]["labels"]["subject_id"] == "claude"
    assert "5 of 100 requests left" in alerts["upstream_quota_low"]["annotations"]["description"]
