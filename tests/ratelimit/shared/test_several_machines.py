"""A limit shared by several gateway processes on a real storage, also during an outage."""

from __future__ import annotations

import functools
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tokenpulse_mw import HttpMetrics, Settings, SharedLimiter, TokenPulse

from ...support.apps import answering
from ...support.defaults import set_default
from ...support.servers import Server
from ...support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[3]
LIMIT = 50


@contextmanager
def gateways(
    storage: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    on_error: str = "local",
    strategy: str = "fixed-window",
    timeout: float = PATIENCE,
) -> Iterator[list[str]]:
    """Run two processes of the same gateway and yield their URLs."""
    settings = {
        "LIMIT": f"{LIMIT}/hour",
        "STORAGE": storage,
        "ON_ERROR": on_error,
        "STRATEGY": strategy,
        "TIMEOUT": str(timeout),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "uvicorn", "tests.support.shared_gateway:app"]
    options = ["--app-dir", str(ROOT), "--port", "{port}", "--log-level", "critical"]
    servers = [Server([*command, *options], folder) for _ in range(2)]
    try:
        for server in servers:
            server.start()
        yield [f"http://{server.place}/" for server in servers]
    finally:
        for server in servers:
            server.kill()


async def send_requests(
    url: str,
    key: str,
    times: int = 1,
    *,
    on_response: Callable[[httpx2.Response], object] = lambda response: None,
) -> list[httpx2.Response]:
    """Send `times` requests with one API key, ten at a time, and return the responses."""
    responses: list[httpx2.Response] = []
    left = iter(range(times))

    async def worker(client: httpx2.AsyncClient) -> None:
        for _ in left:
            response = await client.get(url)
            on_response(response)
            responses.append(response)

    # Without keep-alive: a server may be closing an idle connection.
    headers = {"x-api-key": key, "connection": "close"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(min(times, 10)):
            tasks.start_soon(worker, client)
    return responses


async def count_statuses(urls: list[str], key: str, times: int) -> Counter[int]:
    """Send `times` requests to each gateway concurrently, and count the statuses."""
    statuses: Counter[int] = Counter()

    async def send_to(url: str) -> None:
        statuses.update(response.status_code for response in await send_requests(url, key, times))

    async with anyio.create_task_group() as tasks:
        for url in urls:
            tasks.start_soon(send_to, url)
    return statuses


async def until_shared(urls: list[str]) -> None:
    """Wait until the gateways count in the storage."""
    number, remaining = 0, list[int]()
    with anyio.fail_after(PATIENCE):
        while remaining != [LIMIT - 1, LIMIT - 2]:
            number += 1
            remaining = []
            for url in urls:
                (response,) = await send_requests(url, f"probe {number}")
                match = re.search(r"r=(\d+)", response.headers["ratelimit"])
                remaining.append(int(match[1]) if match else -1)


@pytest.mark.parametrize("strategy", ["fixed-window", "sliding-window-counter"])
def test_two_gateways_share_one_limit_exactly(
    redis: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Two processes together allow exactly the limit."""
    storage = f"async+redis://{redis.place}"
    with gateways(storage, tmp_path, monkeypatch, strategy=strategy) as urls:
        assert anyio.run(count_statuses, urls, "sk-1", 60) == {200: LIMIT, 429: 120 - LIMIT}
        assert anyio.run(count_statuses, urls, "sk-2", 10) == {200: 20}


def test_two_gateways_share_one_limit_exactly_on_memcached(
    memcached: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For requests of equal cost, the limit is as exact as on Redis."""
    with gateways(f"async+memcached://{memcached.place}", tmp_path, monkeypatch) as urls:
        assert anyio.run(count_statuses, urls, "sk-1", 60) == {200: LIMIT, 429: 120 - LIMIT}


@pytest.mark.parametrize(
    ("on_error", "statuses_in_outage"),
    [
        ("local", {200: 2 * LIMIT, 429: 20}),
        ("allow", {200: 2 * LIMIT + 20}),
        ("deny", {429: 2 * LIMIT + 20}),
    ],
)
def test_storage_that_dies_during_traffic_fails_no_request(
    redis: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_error: str,
    statuses_in_outage: dict[int, int],
) -> None:
    """Requests are decided by `on_error` during the outage, and by the storage after it."""
    statuses: list[int] = []

    def on_response(response: httpx2.Response) -> None:
        statuses.append(response.status_code)
        if len(statuses) == 20:
            redis.kill()

    async def send_all(urls: list[str]) -> None:
        await until_shared(urls)
        async with anyio.create_task_group() as tasks:
            for url in urls:
                tasks.start_soon(
                    functools.partial(send_requests, url, "sk-dying", 100, on_response=on_response)
                )
        assert len(statuses) == 200
        assert set(statuses) <= {200, 429}
        assert await count_statuses(urls, "sk-down", LIMIT + 10) == statuses_in_outage
        redis.start()
        await until_shared(urls)
        assert await count_statuses(urls, "sk-back", LIMIT) == {200: LIMIT, 429: LIMIT}

    storage = f"async+redis://{redis.place}"
    with gateways(storage, tmp_path, monkeypatch, on_error=on_error) as urls:
        anyio.run(send_all, urls)


def test_shutdown_closes_all_connections(
    redis: Server, metrics: HttpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TokenPulse` closes the storage of its settings with the application."""
    set_default(monkeypatch, SharedLimiter.__init__, "timeout", PATIENCE)
    settings = Settings(limit="1/day", limit_storage=f"async+redis://{redis.place}")
    app = Starlette(routes=[Mount("/", answering())])
    TokenPulse(settings=settings, metrics=metrics).install(app)

    with TestClient(app) as client:
        assert [client.get("/chat").status_code for _ in range(2)] == [200, 429]
        assert connections(redis) > 0

    wait_until(lambda: connections(redis) == 0, "a connection is left")


def connections(redis: Server) -> int:
    """Return the number of other clients of the storage."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=PATIENCE) as connection:
        connection.sendall(b"CLIENT LIST\r\n")
        return connection.recv(65536).count(b"addr=") // 2 - 1
