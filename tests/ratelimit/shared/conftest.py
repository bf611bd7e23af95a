"""Storages and strategies of shared limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import coredis
import pytest

from ...support.servers import Server


@pytest.fixture
def anyio_backend() -> str:
    """Return the only event loop that the drivers support."""
    return "asyncio"


@pytest.fixture(params=["redis", "memcached"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return a server of each kind of storage."""
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def storage(server: Server) -> str:
    """Return the URL of each kind of storage."""
    return url(server)


@pytest.fixture(params=["fixed-window", "sliding-window-counter"])
def strategy(request: pytest.FixtureRequest) -> str:
    """Return each strategy that can be shared."""
    return str(request.param)


def url(server: Server) -> str:
    """Return the URL of a server, according to its program."""
    scheme = "memcached" if server.program == "memcached" else "redis"
    return f"async+{scheme}://{server.place}"


@asynccontextmanager
async def direct_client(server: Server) -> AsyncIterator[coredis.Redis[str]]:
    """Yield a direct connection to a Redis."""
    client = coredis.Redis(port=server.port, decode_responses=True)
    try:
        yield client
    finally:
        client.connection_pool.disconnect()
