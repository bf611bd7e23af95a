"""Storages that processes share, as real servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import Server, is_installed, memcached_server, redis_server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    """A Redis of the test's own, started."""
    yield from _started(redis_server(tmp_path), "redis-server")


@pytest.fixture
def locked_redis(tmp_path: Path) -> Iterator[Server]:
    """A Redis that asks for a password, `hunter@2/?#`."""
    yield from _started(redis_server(tmp_path, "--requirepass", "hunter@2/?#"), "redis-server")


@pytest.fixture
def memcached(tmp_path: Path) -> Iterator[Server]:
    """A Memcached of the test's own, started."""
    yield from _started(memcached_server(tmp_path), "memcached")


def _started(server: Server, program: str) -> Iterator[Server]:
    if not is_installed(program):
        missing = f"install the package {program}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    server.start()
    yield server
    server.kill()
