"""The storages that processes share: which are accepted, and what errors say."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref

import pytest

from tokenpulse_mw.ratelimit.shared.connections import StoragePool
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter
from tokenpulse_mw.ratelimit.shared.storage import SCHEMES
from tokenpulse_mw.secret import hide_url


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_can_be_opened(scheme: str) -> None:
    """A limiter is made for each; it connects only when it is first asked."""
    SharedLimiter("1/minute", storage=f"{scheme}://127.0.0.1:6379/0")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("redis://127.0.0.1:6379", "is not known: use 'async.redis://', which does not block"),
        ("memcached://127.0.0.1", "is not known: use 'async.memcached://'"),
        ("async+memory://", "to count within one process, use Limiter"),
        ("memory://", "to count within one process, use Limiter"),
        ("async+mongodb://127.0.0.1:1", "expected a URL that begins with one of .'async.redis',"),
        ("127.0.0.1:6379", "expected a URL that begins with one of"),
        ("async+redis://", "cannot be opened: expected 'async.redis://host:port'"),
        ("async+memcached://127.0.0.1", "cannot be opened: expected 'async.memcached://host:port'"),
        ("async+redis://127.0.0.1:port", "cannot be opened: expected 'async.redis://host:port'"),
        (6379, "storage must be a URL such as 'async.redis://host:6379', got one of type int"),
    ],
)
def test_what_is_no_storage_is_refused(storage: str, message: str) -> None:
    """The error says what came, what is expected, and what to use."""
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
def test_a_missing_driver_is_told_with_what_to_install(
    driver: str, storage: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At construction, not with the first request."""
    monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(ValueError, match=f"{driver}: pip install '{extra}'$") as caught:
        SharedLimiter("1/minute", storage=storage)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "storage",
    [
        "redis://:hunter2@127.0.0.1:6379",
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
def test_a_password_is_in_no_error(storage: str) -> None:
    """Neither in its text nor in what a traceback shows of its cause."""
    with pytest.raises(ValueError, match=r"storage '.*' (is not known|cannot be opened)") as caught:
        SharedLimiter("1/minute", storage=storage)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_drivers_are_not_loaded_with_the_package() -> None:
    """Who does not share a storage does not pay for one."""
    check = "import sys, tokenpulse_mw; sys.exit(bool({'coredis', 'memcachio'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_event_loop_that_is_gone_is_not_kept() -> None:
    """Also one that was closed with no chance to clean up."""
    stored = StoragePool(
        hide_url("async+redis://127.0.0.1:1"), strategy="fixed-window", limit=1, window=60
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(stored.for_running_loop())
    loop.close()
    gone = weakref.ref(loop)
    del loop

    asyncio.run(_opened(stored))
    gc.collect()

    assert gone() is None


async def _opened(stored: StoragePool) -> None:
    assert await stored.for_running_loop() is await stored.for_running_loop()


@pytest.mark.parametrize(
    ("limit", "strategy"), [("2/year", "fixed-window"), ("2 per 16 days", "sliding-window-counter")]
)
def test_windows_that_memcached_would_forget_are_refused(limit: str, strategy: str) -> None:
    """It takes what is longer than 30 days for a date, and would limit nobody."""
    with pytest.raises(ValueError, match="Memcached keeps counters for 30 days at most, and a"):
        SharedLimiter(limit, storage="async+memcached://127.0.0.1:1", strategy=strategy)

    SharedLimiter(limit, storage="async+redis://127.0.0.1:1", strategy=strategy)
    SharedLimiter("2 per 15 days", storage="async+memcached://127.0.0.1:1", strategy=strategy)
