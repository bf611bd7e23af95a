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
from tokenpulse_mw.logs.levels import NOISY_LOGGERS

from .support.clock import FakeClock
from .support.defaults import set_default
from .support.waiting import PATIENCE

pytest_plugins = ["tokenpulse_mw.pytest_plugin"]

# Without deadlines, so that no test fails because the machine is slow.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fast", settings.get_profile("patient"), max_examples=5)
settings.load_profile("patient")

# Fixtures that start an installed server.
SERVERS = {
    *("redis", "locked_redis", "memcached", "storage", "server", "postgres", "prometheus"),
    "chromium",
}


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than the number of cores, because many tests wait for servers."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses an installed server."""
    for item in items:
        if isinstance(item, pytest.Function) and not SERVERS.isdisjoint(item.fixturenames):
            item.add_marker("server")


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collection, since they live until the end."""
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run tests marked `anyio` on both event loops."""
    return str(request.param)


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that only the test advances."""
    return FakeClock()


@pytest.fixture
def metrics() -> HttpMetrics:
    """Return metrics on a separate registry."""
    return HttpMetrics(CollectorRegistry())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extend the default timeouts of health checks, so that slow machines do not exceed them."""
    set_default(monkeypatch, Checks.__init__, "deadline", PATIENCE)
    for name in ("timeout", "deadline"):
        set_default(monkeypatch, HealthRouter.__init__, name, PATIENCE)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restore the configuration of logging after each test, so that their order has no effect."""
    names = (None, "tokenpulse_mw", *NOISY_LOGGERS)
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        if logger.level != level:
            logger.setLevel(level)  # also clears the level caches of other loggers
