"""Fixtures, markers and Hypothesis profiles of all tests."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.health import Checks, HealthRouter

from .support.clock import FakeClock
from .support.defaults import set_default
from .support.waiting import PATIENCE

# No test fails because the machine is slow.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fast", settings.get_profile("patient"), max_examples=5)
settings.load_profile("patient")

# The fixtures that start a server of the system.
SERVERS = {"redis", "locked_redis", "memcached", "storage", "server", "postgres", "prometheus"}


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores, because many tests wait for a server."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses a server of the system."""
    for item in items:
        if isinstance(item, pytest.Function) and not SERVERS.isdisjoint(item.fixturenames):
            item.add_marker("server")


def pytest_collection_finish() -> None:
    """Exclude the collected tests, which live to the end, from every later garbage collection."""
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Tests marked `anyio` run on both event loops."""
    return str(request.param)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def metrics() -> HttpMetrics:
    """Metrics on a registry of their own."""
    return HttpMetrics(CollectorRegistry())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test does not say how long checks of health may take, they may take long."""
    set_default(monkeypatch, Checks.__init__, "deadline", PATIENCE)
    for name in ("timeout", "deadline"):
        set_default(monkeypatch, HealthRouter.__init__, name, PATIENCE)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Leave the process's logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)  # which other loggers have taken a copy of
