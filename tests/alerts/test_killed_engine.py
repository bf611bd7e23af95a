"""An engine that is killed at any moment: everybody hears of each alert, and of none as new twice.

Nothing that people have done is lost either.
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

from ..support.receiver import Received, Receiver, answering
from ..support.waiting import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
Told = tuple[str, str, str]  # the transition, the alert's id, and the webhook's


class Sometimes(Receiver):
    """A receiver that can be down; `taken` is what it took, whatever it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.up = True
        self.taken: list[Received] = []
        self._lock = threading.Lock()

    def take(self, request: Received, out: BufferedIOBase) -> bool:
        """Take a request, or do not."""
        with self._lock:
            if self.up:
                self.taken.append(request)
        return answering(200 if self.up else 503)(out, threading.Event())

    def told(self) -> dict[str, list[Told]]:
        """What was told of each key, in order; what came again at once is left out."""
        by_key = defaultdict(list)
        for request in self.taken:
            event = request.json["data"]
            seen = (event["transition"], event["alert_id"], request.headers["webhook-id"])
            by_key[event["fingerprint"]].append(seen)
        return {key: [each for each, _ in groupby(events)] for key, events in by_key.items()}


class Gateway:
    """A process with an engine, which is not left behind; `said` is all that it printed."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.alerts.killed_engine", *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def work(self, lines: int) -> None:
        """Let it do so much."""
        assert self._process.stdout is not None
        self.said += [self._process.stdout.readline() for _ in range(lines)]

    def kill(self) -> None:
        """End it where it is."""
        self._process.kill()
        self._end()

    def end(self) -> None:
        """Let it end itself."""
        self._end()
        assert self._process.returncode == 0

    def _end(self) -> None:
        # What could not be told waits for up to a minute.
        rest, _ = self._process.communicate(timeout=60 + PATIENCE)
        self.said += [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def anyio_backend() -> str:
    """What SQLAlchemy runs on."""
    return "asyncio"


@pytest.mark.anyio
async def test_a_kill_costs_nobody_an_alert(tmp_path: Path) -> None:
    """Gateways follow each other on one file; each is killed at its work, the last one ends.

    For a part of the time the receiver is down.
    """
    database = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    chance, lines = random.Random(), list[str]()
    with Sometimes() as receiver:
        for number in range(4):
            receiver.up = number != 1
            with Gateway(database, receiver.url, f"gateway-{number}") as gateway:
                gateway.work(chance.randint(20, 60))
                receiver.up = True
                gateway.work(chance.randint(1, 40))
                gateway.end() if number == 3 else gateway.kill()
            lines += gateway.said

        told = receiver.told()
    store = SQLAlertStore(database)
    try:
        await check_people(store, lines)
        await check_alerts(store, told)
    finally:
        await store.aclose()


async def check_people(store: AlertStore, lines: Iterable[str]) -> None:
    """All that people have done is there, once."""
    seen = [line.split()[1] for line in lines if line.startswith("seen")]
    assert len(seen) > 10, "there was nothing to lose"
    for alert_id in seen:
        record = await store.alert(alert_id)
        assert record is not None
        assert record.ack is not None
    versions = [each.version for each in reversed(await store.history(1000))]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert max(int(line.split()[1]) for line in lines if line.startswith("version")) <= versions[-1]


async def check_alerts(store: AlertStore, told: dict[str, list[Told]]) -> None:
    """Everything that happened was told, once and in order, and nothing else was."""
    assert (await store.load()).alerts == ()
    assert (await store.load()).notifications == ()
    happened: dict[str, list[tuple[str, str]]] = defaultdict(list)
    page = await store.alerts(limit=1000)
    assert page.next is None
    for record in reversed(page.items):
        for each in await store.transitions(record.id):
            happened[each.fingerprint].append((each.transition, each.alert_id))
    heard = {key: [each[:2] for each in events] for key, events in told.items()}
    assert heard == happened
    for transitions in happened.values():
        assert [each for each, _ in transitions] == ["fired", "resolved"] * (len(transitions) // 2)
