"""Two replicas behind nginx that share a PostgreSQL are one gateway."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ...support.proxies import nginx_server
from ...support.receiver import Receiver
from ...support.servers import Server, started
from ..store.postgres import create_database
from .gateway import INTERVAL
from .gateways import Gateway, new_client, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.server]

ROOT = Path(__file__).parents[3]
COOLDOWN = 1
A, B = 0, 1


class Replicas(Gateway):
    """Two replicas, and nginx before them.

    Attributes:
        nginx: Client of nginx, which sends each request to the next replica.
        servers: The replicas.
    """

    nginx: httpx2.Client
    servers: list[Server]

    def restart(self, number: int) -> None:
        """End a replica as a deployment does, and start it again."""
        self.servers[number].kill(signal.SIGTERM)
        self.servers[number].start()
        self.clients[number].close()
        self.clients[number] = new_client(f"http://{self.servers[number].place}")

    def send(self, times: int, status: int = 200, **query: str) -> set[int]:
        """Send requests through nginx, and return the ids of the processes that responded."""
        params = {"status": str(status), **query}
        return {int(self.nginx.get("/chat", params=params).text) for _ in range(times)}

    def wait_for_evaluations(self, seconds: float) -> None:
        """Wait until the fleet has evaluated for so many seconds."""
        last = "SELECT evaluated_at FROM tokenpulse_alert_fleet"
        end = self.number(last) + seconds
        wait_until(lambda: self.number(last) > end, "nothing was evaluated")


def replica(folder: Path, database: str, webhook: str) -> Server:
    """Return a replica."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.alerts.fleet.gateway:create"]
    options = ["--port", "{port}", "--timeout-keep-alive", "600"]
    environment = {
        "PYTHONPATH": str(ROOT),
        "ALERT_STORE": database,
        "WEBHOOK": webhook,
        "COOLDOWN": str(COOLDOWN),
    }
    return Server([*command, *options], folder, environment)


@pytest.fixture(scope="module")
def replicas(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Yield the replicas on an empty database."""
    folder = tmp_path_factory.mktemp("replicas")
    database = create_database(postgres, "replicas")
    with Receiver() as receiver:
        servers = [replica(folder, database, receiver.url) for _ in (A, B)]
        upstream = " ".join(f"server {server.place} max_fails=0;" for server in servers)
        site = f"upstream gateway {{ {upstream} }}\nserver {{ listen 80; location / {{ "
        nginx = nginx_server(folder, f"{site}proxy_pass http://gateway; }} }}")
        try:
            for server in servers:
                server.start()
            for running in started(nginx, "nginx"):
                clients = [new_client(f"http://{server.place}") for server in servers]
                replicas = Replicas(database, receiver, clients)
                replicas.nginx = new_client(f"http://{running.place}")
                replicas.servers = servers
                yield replicas
                for client in (*replicas.clients, replicas.nginx):
                    client.close()
        finally:
            for server in servers:
                server.kill(signal.SIGTERM)


def test_breach_of_two_replicas_fires_once_and_is_resolved_once(replicas: Replicas) -> None:
    """Each replica has half of the failures in a row, and both have the success that ends them."""
    processes = replicas.send(12, status=502, credential="both")
    replicas.settle()
    assert len(processes) == 2
    # It may have fired at ten, between two of the requests.
    assert replicas.alert("apikey:both")["value"] == 12
    assert replicas.transitions("both").count("fired") == 1

    replicas.send(2, credential="both")
    replicas.settle()
    transitions = [name for name in replicas.transitions("both") if name != "reminded"]
    assert transitions == ["fired", "resolved"]


def test_restart_of_replicas_resolves_nothing(replicas: Replicas) -> None:
    """The traffic of an ended replica stays, and so does the alert of one that is idle."""
    replicas.send(40, status=500, key="rolling")
    replicas.settle()
    (fired,) = (event for event in replicas.events("rolling") if event["transition"] == "fired")

    for number in (A, B):
        replicas.restart(number)
        replicas.chat(1 - number, times=5, status=500, key="rolling")
        replicas.settle()
        replicas.wait_for_evaluations(2 * INTERVAL)

    alert = replicas.alert("key:rolling")
    assert (alert["id"], alert["state"], alert["value"]) == (fired["alert_id"], "firing", 1)
    assert alert["metadata"]["requests"] == 50
    assert set(replicas.transitions("rolling")) <= {"fired", "reminded"}
    assert replicas.transitions("rolling").count("fired") == 1


def test_thresholds_set_on_one_replica_are_used_for_the_traffic_of_both(
    replicas: Replicas,
) -> None:
    """Both return them, and their common traffic is compared with them, whichever leads."""
    for number, limit in ((A, 20), (B, 30)):
        tenant = f"tenant-{limit}"
        replicas.set_thresholds(number, master_rpm=limit)
        assert replicas.thresholds(1 - number)["master_rpm"] == limit

        replicas.send(limit - 1, tenant=tenant)
        replicas.settle()
        assert replicas.events(tenant) == []
        replicas.send(1, tenant=tenant)
        replicas.settle()
        assert replicas.events(tenant)[0]["value"] == limit


def test_acknowledgement_of_any_replica_stops_the_reminders(replicas: Replicas) -> None:
    """The leader reminds of each alert, until any replica has acknowledged it."""
    for number in (A, B):
        credential = f"reminded-{number}"
        replicas.chat(A, times=10, status=502, credential=credential)
        reminded = lambda name=credential: "reminded" in replicas.transitions(name)  # noqa: E731
        wait_until(reminded, "nothing was reminded of")

        alert = replicas.alert(f"apikey:{credential}")
        response = replicas.admin(number, "POST", f"/{alert['id']}/ack", json={"by": "ada"})
        assert response.status_code == 200
        replicas.wait_for_evaluations(2 * INTERVAL)  # the leader has read it
        replicas.settle()
        before = len(replicas.events(credential))
        replicas.wait_for_evaluations(3 * COOLDOWN)
        replicas.settle()
        assert len(replicas.events(credential)) == before
