"""Several gateways, one limit: real processes, a real storage, and what happens without it."""

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
    """Two processes of the same gateway; gives their URLs."""
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


async def ask(
    url: str,
    key: str,
    times: int = 1,
    *,
    on_answer: Callable[[httpx2.Response], object] = lambda answer: None,
) -> list[httpx2.Response]:
    """So many requests with one API key, ten at a time."""
    answers: list[httpx2.Response] = []
    left = iter(range(times))

    async def worker(client: httpx2.AsyncClient) -> None:
        for _ in left:
            answer = await client.get(url)
            on_answer(answer)
            answers.append(answer)

    # On connections of their own: a server may be closing one that was idle for long.
    headers = {"x-api-key": key, "connection": "close"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(min(times, 10)):
            tasks.start_soon(worker, client)
    return answers


async def ask_all(urls: list[str], key: str, times: int) -> Counter[int]:
    """So many requests to each gateway at the same time; counts the answers by status."""
    statuses: Counter[int] = Counter()

    async def asking(url: str) -> None:
        statuses.update(answer.status_code for answer in await ask(url, key, times))

    async with anyio.create_task_group() as tasks:
        for url in urls:
            tasks.start_soon(asking, url)
    return statuses


async def until_shared(urls: list[str]) -> None:
    """Wait until the gateways count together (again)."""
    number, remaining = 0, list[int]()
    with anyio.fail_after(PATIENCE):
        while remaining != [LIMIT - 1, LIMIT - 2]:
            number += 1
            remaining = []
            for url in urls:
                (answer,) = await ask(url, f"probe {number}")
                found = re.search(r"r=(\d+)", answer.headers["ratelimit"])
                remaining.append(int(found[1]) if found else -1)


@pytest.mark.parametrize("strategy", ["fixed-window", "sliding-window-counter"])
def test_two_gateways_share_one_limit_exactly(
    redis: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Whichever process a request comes to, all together get the limit and not one more."""
    storage = f"async+redis://{redis.place}"
    with gateways(storage, tmp_path, monkeypatch, strategy=strategy) as urls:
        assert anyio.run(ask_all, urls, "sk-1", 60) == {200: LIMIT, 429: 120 - LIMIT}
        assert anyio.run(ask_all, urls, "sk-2", 10) == {200: 20}


def test_memcached_does_as_well(
    memcached: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is as exact as on Redis."""
    with gateways(f"async+memcached://{memcached.place}", tmp_path, monkeypatch) as urls:
        assert anyio.run(ask_all, urls, "sk-1", 60) == {200: LIMIT, 429: 120 - LIMIT}


@pytest.mark.parametrize(
    ("on_error", "meanwhile"),
    [
        ("local", {200: 2 * LIMIT, 429: 20}),
        ("allow", {200: 2 * LIMIT + 20}),
        ("deny", {429: 2 * LIMIT + 20}),
    ],
)
def test_a_storage_that_dies_in_mid_traffic_fails_no_request(
    redis: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_error: str,
    meanwhile: dict[int, int],
) -> None:
    """Requests are decided as configured until it is back, and then by it again."""
    statuses: list[int] = []

    def note(answer: httpx2.Response) -> None:
        statuses.append(answer.status_code)
        if len(statuses) == 20:
            redis.kill()

    async def story(urls: list[str]) -> None:
        await until_shared(urls)
        async with anyio.create_task_group() as tasks:
            for url in urls:
                tasks.start_soon(functools.partial(ask, url, "sk-dying", 100, on_answer=note))
        assert len(statuses) == 200
        assert set(statuses) <= {200, 429}
        assert await ask_all(urls, "sk-down", LIMIT + 10) == meanwhile
        redis.start()
        await until_shared(urls)
        assert await ask_all(urls, "sk-back", LIMIT) == {200: LIMIT, 429: LIMIT}

    storage = f"async+redis://{redis.place}"
    with gateways(storage, tmp_path, monkeypatch, on_error=on_error) as urls:
        anyio.run(story, urls)


def test_a_gateway_that_shuts_down_leaves_no_connection(
    redis: Server, metrics: HttpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TokenPulse` opens what its settings name, and closes it with the application."""
    set_default(monkeypatch, SharedLimiter.__init__, "timeout", PATIENCE)
    settings = Settings(limit="1/day", limit_storage=f"async+redis://{redis.place}")
    app = Starlette(routes=[Mount("/", answering())])
    TokenPulse(settings=settings, metrics=metrics).install(app)

    with TestClient(app) as client:
        assert [client.get("/chat").status_code for _ in range(2)] == [200, 429]
        assert connections(redis) > 0

    wait_until(lambda: connections(redis) == 0, "a connection is left")


def connections(redis: Server) -> int:
    """How many clients the storage has, but for the one that asks."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=PATIENCE) as connection:
        connection.sendall(b"CLIENT LIST\r\n")
        return connection.recv(65536).count(b"addr=") // 2 - 1
