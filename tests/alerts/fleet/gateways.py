"""Client of a gateway of several processes, and what they have stored and sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ...support.receiver import Receiver
from ...support.waiting import PATIENCE
from .gateway import HEARTBEAT, TOKEN

POLL_SECONDS = 0.05


class Gateway:
    """Processes of one gateway.

    Args:
        url: URL of their database.
        receiver: Receiver of their alerts.
        clients: A client of each process, which keeps its connection.

    Attributes:
        clients: The argument.
    """

    def __init__(self, url: str, receiver: Receiver, clients: Sequence[httpx2.Client]) -> None:
        self.clients = list(clients)
        self._url = url
        self._receiver = receiver

    def chat(self, process: int, *, times: int = 1, status: int = 200, **query: str) -> set[int]:
        """Send requests to a process, and return the ids of the processes that responded."""
        params = {"status": str(status), **query}
        responses = [self.clients[process].get("/chat", params=params) for _ in range(times)]
        assert {response.status_code for response in responses} == {status}
        return {int(response.text) for response in responses}

    def chat_with_all(self, **options: Any) -> None:
        """Send the same requests to all processes, at the same time."""
        with ThreadPoolExecutor(len(self.clients)) as pool:
            list(pool.map(lambda number: self.chat(number, **options), range(len(self.clients))))

    def admin(self, process: int, method: str, path: str = "", **options: Any) -> httpx2.Response:
        """Send a request to the admin API of a process."""
        return self.clients[process].request(method, f"/admin/alerts{path}", **options)

    def set_thresholds(self, process: int, **values: float) -> None:
        """Change thresholds through a process."""
        headers, body = {"if-match": "*"}, {"thresholds": values}
        response = self.admin(process, "PATCH", "/thresholds", json=body, headers=headers)
        assert response.status_code == 200, response.text

    def thresholds(self, process: int) -> dict[str, Any]:
        """Return the thresholds as a process has them."""
        return dict(self.admin(process, "GET", "/thresholds").json()["thresholds"])

    def alerts(self, process: int, **query: str) -> list[dict[str, Any]]:
        """Return the alerts as a process lists them."""
        response = self.admin(process, "GET", params=query)
        assert response.status_code == 200, response.text
        return list(response.json()["alerts"])

    def alert(self, subject: str) -> dict[str, Any]:
        """Return the alert about the subject, which has an alert."""
        (alert,) = self.alerts(0, subject=subject)
        return alert

    def events(self, identity: str) -> list[dict[str, Any]]:
        """Return the events that were sent about the subject of this id."""
        events = [request.json["data"] for request in self._receiver.received]
        return [event for event in events if event["subject"]["id"] == identity]

    def transitions(self, identity: str) -> list[str]:
        """Return the transitions that were sent about the subject of this id."""
        return [event["transition"] for event in self.events(identity)]

    def settle(self) -> None:
        """Wait until all requests before this call are evaluated, and all events delivered."""
        slot = int(time.time() / HEARTBEAT)
        processes = self._process_ids()
        ids = ", ".join(map(str, processes))
        # A process that has just started may not be a member yet.
        sent = (
            "SELECT count(*) FROM tokenpulse_alert_members "
            f"WHERE pid IN ({ids}) AND through >= {slot}"
        )
        wait_until(lambda: self.number(sent) == len(processes), "the traffic was not sent")
        waiting = f"SELECT count(*) FROM tokenpulse_alert_batches WHERE slot <= {slot}"
        wait_until(lambda: self.number(waiting) == 0, "the traffic was not evaluated")
        undelivered = "SELECT count(*) FROM tokenpulse_alert_notifications"
        wait_until(lambda: self.number(undelivered) == 0, "notifications wait")

    def number(self, query: str) -> float:
        """Return the number that a query of the database returns."""

        async def execute() -> Any:
            engine = create_async_engine(self._url, poolclass=NullPool)
            async with engine.connect() as connection:
                return (await connection.execute(text(query))).scalar_one()

        return float(asyncio.run(execute()) or 0)

    def _process_ids(self) -> set[int]:
        numbers = range(len(self.clients))
        return set().union(*(self.chat(number, tenant="settle") for number in numbers))


def new_client(url: str) -> httpx2.Client:
    """Return an authorized client with one connection, which it keeps."""
    limits = httpx2.Limits(max_connections=1, keepalive_expiry=None)
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx2.Client(base_url=url, timeout=PATIENCE, limits=limits, headers=headers)


@contextmanager
def clients_of_workers(url: str, workers: int) -> Iterator[list[httpx2.Client]]:
    """Yield a client of each worker that accepts connections at `url`."""
    clients = dict[int, httpx2.Client]()

    def connect(_: int) -> tuple[int, httpx2.Client]:
        client = new_client(url)
        return int(client.get("/busy").text), client

    def has_all() -> bool:
        with ThreadPoolExecutor(2 * workers) as pool:
            for process, client in pool.map(connect, range(2 * workers)):
                if clients.setdefault(process, client) is not client:
                    client.close()
        return len(clients) == workers

    try:
        wait_until(has_all, "not all workers respond")
        yield list(clients.values())
    finally:
        for client in clients.values():
            client.close()


def wait_until(holds: Callable[[], bool], failure: str) -> None:
    """Wait until `holds`, which may be slow, returns True; fail after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, failure
        time.sleep(POLL_SECONDS)
