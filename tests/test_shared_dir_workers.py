"""Four uvicorn workers with one setting are one gateway."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .alerts.fleet.gateway import TOKEN
from .alerts.fleet.gateways import clients_of_workers, wait_until
from .support.receiver import Receiver
from .support.servers import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of workers need Linux"),
]

ROOT = Path(__file__).parents[1]
WORKERS, LIMIT = 4, 100


class Gateway(NamedTuple):
    """Running gateway.

    Attributes:
        url: URL of all workers.
        receiver: Receiver of the alerts.
        server: Parent of the workers.
    """

    url: str
    receiver: Receiver
    server: Server

    def fired(self) -> Counter[str]:
        """Return the number of `fired` events by type of the alert."""
        events = [request.json["data"] for request in self.receiver.received]
        return Counter(event["type"] for event in events if event["transition"] == "fired")


@contextmanager
def running(folder: Path) -> Iterator[Gateway]:
    """Run the gateway in four workers."""
    command = [sys.executable, "-m", "uvicorn", "--port", "{port}", "--workers", str(WORKERS)]
    command += ["--timeout-keep-alive", "600", "tests.support.several_workers:app"]
    with Receiver() as receiver:
        environment = {
            "PYTHONPATH": str(ROOT),
            "TOKENPULSE_SHARED_DIR": str(folder / "shared"),
            "TOKENPULSE_LIMIT": f"{LIMIT}/hour",
            "TOKENPULSE_ADMIN_TOKEN": TOKEN,
            "TOKENPULSE_ALERT_INTERVAL": "1",
            "TOKENPULSE_ALERT_WEBHOOK_URL": receiver.url,
        }
        server = Server(command, folder, environment)
        server.start()
        try:
            yield Gateway(f"http://{server.place}", receiver, server)
        finally:
            server.kill(signal.SIGTERM)


def send(clients: Sequence[httpx2.Client], requests: int) -> Counter[int]:
    """Send requests to all workers at once, and return the number of each status."""

    def chat(number: int) -> Counter[int]:
        client, share = clients[number], range(number, requests, len(clients))
        return Counter(client.get("/chat").status_code for _ in share)

    with ThreadPoolExecutor(len(clients)) as pool:
        return sum(pool.map(chat, range(len(clients))), Counter[int]())


def scrape(client: httpx2.Client) -> dict[tuple[str, str], float]:
    """Return the requests to `/chat` by status, the decisions, and the keys of the limit."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.labels.get("route") == "/chat" and sample.name.endswith("requests_total"):
                found["requests", sample.labels["status"]] = sample.value
            elif sample.name == "tokenpulse_rate_limit_decisions_total":
                found["decisions", sample.labels["decision"]] = sample.value
            elif sample.name == "tokenpulse_rate_limit_keys":
                found["keys", sample.labels["policy"]] = sample.value
    return found


EXPECTED = {
    ("requests", "200"): 100,
    ("requests", "429"): 50,
    ("decisions", "allowed"): 100,
    ("decisions", "limited"): 50,
    ("keys", "default"): 1,
}


def admin(client: httpx2.Client, path: str) -> dict[str, Any]:
    """Return a document of the admin API."""
    response = client.get(f"/admin/alerts{path}")
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_four_workers_with_one_setting_are_one_gateway(tmp_path: Path) -> None:
    """Limits, metrics, alerts and thresholds are the same, whichever worker responds."""
    with running(tmp_path) as gateway, clients_of_workers(gateway.url, WORKERS) as clients:
        assert send(clients, 150) == {200: 100, 429: 50}

        # A request is counted after its response, and gauges every second.
        wait_until(lambda: all(scrape(client) == EXPECTED for client in clients), "not exact")

        body = {"thresholds": {"master_rpm": 7777}}
        changed = clients[0].patch("/admin/alerts/thresholds", json=body, headers={"if-match": "*"})
        assert changed.status_code == 200, changed.text
        thresholds = [admin(client, "/thresholds")["thresholds"] for client in clients]
        assert [values["master_rpm"] for values in thresholds] == [7777] * WORKERS

        wait_until(lambda: gateway.fired() != {}, "no alert was sent")
        lists = [admin(client, "?state=firing")["alerts"] for client in clients]
        assert [[alert["type"] for alert in alerts] for alerts in lists] == [["rate_limit"]] * 4
        evaluated = scrape_evaluations(clients[0])
        wait_until(lambda: scrape_evaluations(clients[1]) > evaluated + 2, "nothing is evaluated")
        assert gateway.fired() == {"rate_limit": 1}

    assert "do not share their state" not in gateway.server.output


def scrape_evaluations(client: httpx2.Client) -> float:
    """Return the number of evaluations of all workers."""
    lines = client.get("/metrics").text.splitlines()
    prefix = 'tokenpulse_alert_evaluations_total{result="ok"} '
    return sum(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))


def test_killed_worker_loses_no_limit_and_counts_nothing_twice(tmp_path: Path) -> None:
    """The worker that replaces the killed leader continues with the same counts."""
    with running(tmp_path) as gateway:
        with clients_of_workers(gateway.url, WORKERS) as clients:
            assert send(clients, 60) == {200: 60}
            # A request is counted after its response.
            wait_until(lambda: scrape(clients[0]).get(("requests", "200")) == 60, "not counted")
            members = admin(clients[0], "/fleet")
            (leader,) = (member for member in members["members"] if member["leads"])
            os.kill(leader["pid"], signal.SIGKILL)
        with clients_of_workers(gateway.url, WORKERS) as clients:
            assert send(clients, 90) == {200: 40, 429: 50}
            assert send(clients, 8) == {429: 8}

            expected = {
                **EXPECTED,
                ("requests", "429"): 58,
                ("decisions", "limited"): 58,
            }
            wait_until(lambda: all(scrape(client) == expected for client in clients), "not exact")
            wait_until(lambda: gateway.fired() != {}, "no alert was sent")
            evaluated = scrape_evaluations(clients[0])
            wait_until(lambda: scrape_evaluations(clients[1]) > evaluated + 2, "no new leader")
            assert gateway.fired() == {"rate_limit": 1}
