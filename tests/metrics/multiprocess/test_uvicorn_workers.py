"""Four workers under uvicorn's supervisor, one of which is killed under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ...support.servers import free_port
from ...support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[3]


WORKERS, CLIENTS = 4, 8


ENOUGH = 200  # answers before the kill, and after


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """The gateway in four workers that count in `folder`; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.support.worker_gateway:app"]
    command += ["--port", str(port), "--workers", str(WORKERS), "--log-level", "critical"]
    # A worker that is only slow is not to be killed by the supervisor.
    command += ["--timeout-worker-healthcheck", str(round(PATIENCE))]
    # In a session of its own, so that its workers can be ended also if it does not do so itself.
    supervisor = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        supervisor.terminate()
        with suppress(subprocess.TimeoutExpired):
            supervisor.wait(PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(supervisor.pid, signal.SIGKILL)


class Load:
    """Clients that ask, each for one answer at a time and on a new connection.

    Attributes:
        answers: How many each worker has given, by its process id.
        lost: Requests that got none.
    """

    def __init__(self, url: str) -> None:
        self.answers: Counter[int] = Counter()
        self.lost = 0
        self._url = url
        self._killed: int | None = None
        self._deadline = time.monotonic() + PATIENCE

    async def run(self) -> None:
        """Ask until all workers and the one that replaces the killed one have answered."""
        async with anyio.create_task_group() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(self._client)

    async def _client(self) -> None:
        headers = {"connection": "close"}
        async with httpx2.AsyncClient(timeout=PATIENCE, headers=headers) as client:
            while not self._done():
                assert time.monotonic() < self._deadline, (self.answers, self.lost)
                try:
                    answer = await client.get(f"{self._url}/work")
                except httpx2.ConnectError:  # it has not reached any worker
                    await anyio.sleep(0.01)
                except httpx2.TransportError:
                    self.lost += 1
                else:
                    self.answers[int(answer.text)] += 1

    def _done(self) -> bool:
        enough = self.answers.total() >= ENOUGH
        if self._killed is None and enough and len(self.answers) == WORKERS:
            self._killed = next(iter(self.answers))
            self._deadline = time.monotonic() + PATIENCE
            os.kill(self._killed, signal.SIGKILL)
        return len(self.answers) > WORKERS and self.answers.total() >= 2 * ENOUGH


def scrape(url: str) -> tuple[float, float]:
    """How many requests were counted, and how many are in progress."""
    text = httpx2.get(f"{url}/metrics", headers={"connection": "close"}, timeout=PATIENCE).text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    counted = [each for each in samples if each.name == "tokenpulse_http_requests_total"]
    assert {each.labels["route"] for each in counted} <= {"/work"}
    (running,) = (each for each in samples if each.name == "tokenpulse_http_requests_in_progress")
    return sum(each.value for each in counted), running.value


def test_a_killed_worker_takes_no_counts_with_it(tmp_path: Path) -> None:
    """Every scrape, on whichever worker it lands, has all that the workers have answered.

    A request that the killed worker had in hand is one of two: lost by its client, and perhaps
    counted before; or answered, and perhaps not counted any more, since the answer is sent first.
    Of both there are no more than clients.
    """
    with gateway(tmp_path) as url:
        load = Load(url)
        anyio.run(load.run)
        answered = load.answers.total()
        # What is sent is soon counted.
        wait_until(lambda: scrape(url)[1] == 0, "requests are in progress")
        scrapes = {scrape(url) for _ in range(4 * WORKERS)}

    ((counted, running),) = scrapes
    assert running == 0
    assert load.lost <= CLIENTS
    assert answered - CLIENTS <= counted <= answered + load.lost
    assert len(list(tmp_path.glob("counter_*-tokenpulse.db"))) == WORKERS
