"""Engines that are killed: each transition is delivered, and only once unless it is retried.

Acknowledgements and thresholds survive too.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from io import BufferedIOBase
from itertools import groupby
from pathlib import Path
from typing import Self

import pytest

from tokenpulse_mw.alerts.store import AlertStore, SQLAlertStore

from ..support.receiver import Received, Receiver, respond_with
from ..support.waiting import PATIENCE
from .store.leadership import loaded, waiting

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Delivery = tuple[str, str, str]  # transition, alert id, webhook id


class UnreliableReceiver(Receiver):
    """A receiver that responds with 503 while it is not `up`; `accepted` are the other requests."""

    def __init__(self) -> None:
        super().__init__()
        self.up = True
        self.accepted: list[Received] = []
        self._lock = threading.Lock()

    def handle(self, request: Received, out: BufferedIOBase) -> bool:
        """Accept or reject a request."""
        with self._lock:
            if self.up:
                self.accepted.append(request)
        return respond_with(200 if self.up else 503)(out, threading.Event())

    def deliveries(self) -> dict[str, list[Delivery]]:
        """Return the deliveries of each alert in order, without immediate repetitions."""
        by_fingerprint = defaultdict(list)
        for request in self.accepted:
            event = request.json["data"]
            delivery = (event["transition"], event["alert_id"], request.headers["webhook-id"])
            by_fingerprint[event["fingerprint"]].append(delivery)
        return {
            fingerprint: [delivery for delivery, _ in groupby(deliveries)]
            for fingerprint, deliveries in by_fingerprint.items()
        }


class Gateway:
    """A process with an engine; `lines` is its output. It is killed at the end of the block."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.alerts.killed_engine", *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def read(self, lines: int) -> None:
        """Read this number of lines."""
        assert self._process.stdout is not None
        self.lines += [self._process.stdout.readline() for _ in range(lines)]

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._end()

    def end(self) -> None:
        """Close the input, so that the process exits."""
        self._end()
        assert self._process.returncode == 0

    def _end(self) -> None:
        # A notification that failed is retried after up to a minute.
        rest, _ = self._process.communicate(timeout=60 + PATIENCE)
        self.lines += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def anyio_backend() -> str:
    """Return the only backend of SQLAlchemy."""
    return "asyncio"


@pytest.mark.anyio
async def test_killed_engines_lose_no_alert(tmp_path: Path) -> None:
    """Three engines are killed one after another on one database, and the fourth exits.

    The receiver is down for some time.
    """
    database = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    chance, lines = random.Random(), list[str]()
    with UnreliableReceiver() as receiver:
        for number in range(4):
            receiver.up = number != 1
            with Gateway(database, receiver.url, f"gateway-{number}") as gateway:
                gateway.read(chance.randint(20, 60))
                receiver.up = True
                gateway.read(chance.randint(1, 40))
                gateway.end() if number == 3 else gateway.kill()
            lines += gateway.lines

        deliveries = receiver.deliveries()
    store = SQLAlertStore(database)
    try:
        await check_controls(store, lines)
        await check_alerts(store, deliveries)
    finally:
        await store.aclose()


async def check_controls(store: AlertStore, lines: Iterable[str]) -> None:
    """Check that every acknowledgement and every version of the thresholds is stored once."""
    acknowledged = [line.split()[1] for line in lines if line.startswith("acknowledged")]
    assert len(acknowledged) > 10, "too few acknowledgements to lose"
    for alert_id in acknowledged:
        record = await store.alert(alert_id)
        assert record is not None
        assert record.ack is not None
    versions = [version.version for version in reversed(await store.history(1000))]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert max(int(line.split()[1]) for line in lines if line.startswith("version")) <= versions[-1]


async def check_alerts(store: AlertStore, deliveries: dict[str, list[Delivery]]) -> None:
    """Check that exactly the stored transitions were delivered, once and in order."""
    assert (await loaded(store)).alerts == ()
    assert await waiting(store) == ()
    stored: dict[str, list[tuple[str, str]]] = defaultdict(list)
    page = await store.alerts(limit=1000)
    assert page.next is None
    for record in reversed(page.items):
        for transition in await store.transitions(record.id):
            stored[transition.fingerprint].append((transition.transition, transition.alert_id))
    delivered = {
        fingerprint: [delivery[:2] for delivery in of_alert]
        for fingerprint, of_alert in deliveries.items()
    }
    assert delivered == stored
    for transitions in stored.values():
        assert [name for name, _ in transitions] == ["fired", "resolved"] * (len(transitions) // 2)
