"""Shared storages: supported URLs, errors and connections."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref

import pytest

from tokenpulse_mw.ratelimit.shared.connections import StoragePool
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter
from tokenpulse_mw.ratelimit.shared.storage import SCHEMES, SharedStorage
from tokenpulse_mw.secret import hide_url


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_supported_scheme_is_accepted(scheme: str) -> None:
    """The limiter is created without connecting; vendors write URLs without `async+`."""
    SharedLimiter("1/minute", storage=f"{scheme}://127.0.0.1:6379/0")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("async+memory://", "to count within one process, use Limiter"),
        ("memory://", "to count within one process, use Limiter"),
        (
            "async+mongodb://127.0.0.1:1",
            "must have a supported scheme, .*: use one of redis, rediss, ",
        ),
        ("127.0.0.1:6379", "use one of redis, "),
        ("redis://", "storage must be 'redis://host:port' with options .* got"),
        ("async+redis://", "storage must be 'async.redis://host:port' with options .* got"),
        ("async+memcached://127.0.0.1", "storage must be 'async.memcached://host:port' with opt"),
        ("async+redis://127.0.0.1:port", "storage must be 'async.redis://host:port' with options"),
        (6379, "storage must be a URL such as 'redis://host:6379', got a value of type int"),
    ],
)
def test_invalid_storage_is_rejected(storage: str, message: str) -> None:
    """The error states the expected value, the value it got and what to use."""
    with pytest.raises(ValueError, match=message):
        SharedLimiter("1/minute", storage=storage)


@pytest.mark.parametrize(
    ("driver", "storage", "extra"),
    [
        ("coredis", "async+redis://:hunter2@127.0.0.1:6379", r"tokenpulse-mw\[redis\]"),
        ("coredis", "async+valkey://:hunter2@127.0.0.1:6379", r"tokenpulse-mw\[redis\]"),
        ("memcachio", "async+memcached://:hunter2@127.0.0.1:1", r"tokenpulse-mw\[memcached\]"),
    ],
)
def test_missing_driver_is_rejected_at_construction(
    driver: str, storage: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the package to install, and no password."""
    monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(ValueError, match=f"without {driver}: pip install '{extra}'$") as caught:
        SharedLimiter("1/minute", storage=storage)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "storage",
    [
        "redis://:hunter2@127.0.0.1:port",
        "async+redis://:hunter2@",
        "async+redis://:hunter2@127.0.0.1:port",
        "async+redis://:x@hunter2@127.0.0.1:port/1?password=hunter2",
        "async+memcached://user:hunter2@127.0.0.1",
        "async+redis://127.0.0.1:port?password=hunter2",
        "async+redis://127.0.0.1:port?password=x@hunter2",
        "async+nonsense://:hunter2@127.0.0.1",
        ":hunter2@127.0.0.1",
    ],
)
def test_errors_contain_no_password(storage: str) -> None:
    """The password is neither in the text of the error nor in its cause."""
    with pytest.raises(ValueError, match=r"storage must (be|have) .*, got ") as caught:
        SharedLimiter("1/minute", storage=storage)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_package_does_not_import_the_drivers() -> None:
    """The drivers are imported when a shared limiter is created."""
    check = "import sys, tokenpulse_mw; sys.exit(bool({'coredis', 'memcachio'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_closed_event_loop_is_released() -> None:
    """This holds also for a loop that was closed without shutting down its generators."""
    pool = StoragePool(hide_url("async+redis://127.0.0.1:1"), lambda storage: storage)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(pool.for_running_loop())
    loop.close()
    loop_reference = weakref.ref(loop)
    del loop

    asyncio.run(_opened(pool))
    gc.collect()

    assert loop_reference() is None


async def _opened(pool: StoragePool[SharedStorage]) -> None:
    assert await pool.for_running_loop() is await pool.for_running_loop()


@pytest.mark.parametrize(
    ("limit", "strategy"), [("2/year", "fixed-window"), ("2 per 16 days", "sliding-window-counter")]
)
def test_window_too_long_for_memcached_is_rejected(limit: str, strategy: str) -> None:
    """Memcached reads more than 30 days as a date, so that the counter would expire at once."""
    with pytest.raises(ValueError, match="limit must have counters that live at most 30 days on"):
        SharedLimiter(limit, storage="async+memcached://127.0.0.1:1", strategy=strategy)

    SharedLimiter(limit, storage="async+redis://127.0.0.1:1", strategy=strategy)
    SharedLimiter("2 per 15 days", storage="async+memcached://127.0.0.1:1", strategy=strategy)
