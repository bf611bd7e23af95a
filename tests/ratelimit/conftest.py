"""Shared storages as real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.servers import Server, memcached_server, redis_server, started


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    """Yield a running Redis."""
    yield from started(redis_server(tmp_path), "redis-server")


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[Server]:
    """Yield a running Redis with the password `hunter@2/?#`."""
    yield from started(redis_server(tmp_path, "--requirepass", "hunter@2/?#"), "redis-server")


@pytest.fixture
def memcached(tmp_path: Path) -> Iterator[Server]:
    """Yield a running Memcached."""
    yield from started(memcached_server(tmp_path), "memcached")
