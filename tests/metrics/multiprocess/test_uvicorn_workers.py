"""Four uvicorn workers, one of which is killed under load."""

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
MIN_RESPONSES = 200  # before the kill and after it


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """Run the gateway in four workers that count in `folder`; yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.support.worker_gateway:app"]
    command += ["--port", str(port), "--workers", str(WORKERS), "--log-level", "critical"]
    # The supervisor must not kill a slow worker.
    command += ["--timeout-worker-healthcheck", str(round(PATIENCE))]
    # A new session, so that the workers can be killed if the supervisor fails to do so.
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
    """Clients that send one request at a time, each on a new connection.

    Attributes:
        responses: Number of responses by the process id of the worker.
        lost: Number of requests without a response.
    """

    def __init__(self, url: str) -> None:
        self.responses: Counter[int] = Counter()
        self.lost = 0
        self._url = url
        self._killed: int | None = None
        self._deadline = time.monotonic() + PATIENCE

    async def run(self) -> None:
        """Send requests until all workers and the replacement of the killed one have responded."""
        async with anyio.create_task_group() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(self._client)

    async def _client(self) -> None:
        headers = {"connection": "close"}
        async with httpx2.AsyncClient(timeout=PATIENCE, headers=headers) as client:
            while not self._done():
                assert time.monotonic() < self._deadline, (self.responses, self.lost)
                try:
                    response = await client.get(f"{self._url}/work")
                except httpx2.ConnectError:  # no worker was reached
                    await anyio.sleep(0.01)
                except httpx2.TransportError:
                    self.lost += 1
                else:
                    self.responses[int(response.text)] += 1

    def _done(self) -> bool:
        enough = self.responses.total() >= MIN_RESPONSES
        if self._killed is None and enough and len(self.responses) == WORKERS:
            self._killed = next(iter(self.responses))
            self._deadline = time.monotonic() + PATIENCE
            os.kill(self._killed, signal.SIGKILL)
        return len(self.responses) > WORKERS and self.responses.total() >= 2 * MIN_RESPONSES


def scrape(url: str) -> tuple[float, float]:
    """Return the number of counted requests and of requests in progress."""
    text = httpx2.get(f"{url}/metrics", headers={"connection": "close"}, timeout=PATIENCE).text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    requests = [sample for sample in samples if sample.name == "tokenpulse_http_requests_total"]
    assert {sample.labels["route"] for sample in requests} <= {"/work"}
    (running,) = (
        sample for sample in samples if sample.name == "tokenpulse_http_requests_in_progress"
    )
    return sum(sample.value for sample in requests), running.value


def test_killed_worker_loses_no_counts(tmp_path: Path) -> None:
    """Every scrape returns the requests of all workers, whichever worker it reaches.

    Requests in progress on the killed worker may be lost by their client although they were
    counted, or answered without being counted, since the response is sent first. There are at most
    as many of both as clients.
    """
    with gateway(tmp_path) as url:
        load = Load(url)
        anyio.run(load.run)
        answered = load.responses.total()
        # A request is counted after its response.
        wait_until(lambda: scrape(url)[1] == 0, "requests are in progress")
        scrapes = {scrape(url) for _ in range(4 * WORKERS)}

    ((counted, running),) = scrapes
    assert running == 0
    assert load.lost <= CLIENTS
    assert answered - CLIENTS <= counted <= answered + load.lost
    assert len(list(tmp_path.glob("counter_*-tokenpulse.db"))) == WORKERS
