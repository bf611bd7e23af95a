"""The shared limiter with an unavailable, slow or failing storage."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from coredis.exceptions import ConnectionError as LostError

from tokenpulse_mw import Decision
from tokenpulse_mw.ratelimit.shared.circuit_breaker import RETRY_SECONDS, CircuitBreaker
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter
from tokenpulse_mw.ratelimit.shared.storage import close_storage, open_storage
from tokenpulse_mw.secret import hide_url

from ...support.clock import FakeClock
from ...support.servers import Server, free_port
from ...support.waiting import PATIENCE
from .conftest import url

pytestmark = pytest.mark.anyio

BRIEF = 0.5  # seconds; timeout in tests in which the storage does not respond
ALLOWED = Decision(True, 100, 100, 3600.0, 0.0, degraded=True)
DENIED = Decision(False, 100, 0, 1.0, 1.0, degraded=True)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Capture the log of the limiter from the level INFO."""
    with caplog.at_level(logging.INFO, logger="tokenpulse_mw.ratelimit"):
        yield caplog


async def connect(limiter: SharedLimiter, clock: FakeClock) -> None:
    """Retry until the storage, which may be slow at first, responds within the timeout."""
    async with asyncio.timeout(PATIENCE):
        while (await limiter.hit("a")).degraded:
            clock.advance(RETRY_SECONDS)


def levels(log: pytest.LogCaptureFixture) -> list[str]:
    """Return the levels of the log lines about the storage."""
    return [record.levelname for record in log.records if "storage" in record.message]


@pytest.mark.parametrize("on_error", ["local", "allow", "deny"])
async def test_requests_are_decided_by_on_error_until_the_storage_recovers(
    server: Server,
    strategy: str,
    on_error: str,
    clock: FakeClock,
    log: pytest.LogCaptureFixture,
) -> None:
    """Beginning and end of the outage are logged once."""
    limiter = SharedLimiter(
        "100/hour",
        storage=url(server),
        strategy=strategy,
        on_error=on_error,
        timeout=PATIENCE,
        clock=clock,
    )
    assert not (await limiter.hit("a")).degraded

    server.stop()  # so that all following requests are in progress
    hits = [asyncio.create_task(limiter.hit("a")) for _ in range(30)]
    await asyncio.gather(*hits, asyncio.to_thread(server.kill))

    decisions = [hit.result() for hit in hits] + [await limiter.hit("a") for _ in range(90)]
    if on_error == "local":
        assert all(decision.degraded for decision in decisions)
        assert sum(decision.allowed for decision in decisions) == 100
    else:
        assert set(decisions) == {ALLOWED if on_error == "allow" else DENIED}
    assert levels(log) == ["WARNING"]

    server.start()
    assert (await limiter.hit("b")).degraded  # no request has tried it yet
    clock.advance(RETRY_SECONDS)
    assert [(await limiter.hit("b")).degraded for _ in range(3)] == [False] * 3
    assert levels(log) == ["WARNING", "INFO"]


async def test_lost_connection_is_not_written_to(redis: Server) -> None:
    """The event loop does not wait for a file descriptor that it has closed."""
    storage: Any = open_storage(hide_url(url(redis)))
    client = storage.bridge.get_connection()
    await storage.get_expiry("tokenpulse")
    connection = await client.connection_pool.get_connection()
    await connection.connect()
    transport = connection._transport
    number = transport.get_extra_info("socket").fileno()
    transport.abort()

    with pytest.raises(LostError, match="connection lost"):
        await connection._send_packed_command([b"PING"])

    await close_storage(storage)
    await asyncio.sleep(0)
    assert not asyncio.get_running_loop().remove_writer(number)


async def test_only_the_first_request_waits_for_a_hanging_storage(
    server: Server, strategy: str, clock: FakeClock
) -> None:
    """The first request waits for the timeout, and later requests do not wait."""
    limiter = SharedLimiter(
        "100/hour", storage=url(server), strategy=strategy, timeout=BRIEF, clock=clock
    )
    await connect(limiter, clock)
    server.stop()

    async with asyncio.timeout(PATIENCE):
        assert (await limiter.hit("a")).degraded
    for _ in range(20):
        with pytest.raises(StopIteration) as decided:
            limiter.hit("a").send(None)  # returns normally if the coroutine suspends
        assert decided.value.value.degraded


async def test_one_request_per_second_tries_the_storage(server: Server, clock: FakeClock) -> None:
    """Only this request waits for the response; the others are decided by `on_error`."""
    limiter = SharedLimiter("100/hour", storage=url(server), timeout=PATIENCE, clock=clock)
    server.kill()
    assert (await limiter.hit("a")).degraded
    server.start()
    server.stop()

    clock.advance(RETRY_SECONDS)
    hits = [asyncio.create_task(limiter.hit("a")) for _ in range(20)]
    async with asyncio.timeout(PATIENCE):
        while sum(hit.done() for hit in hits) < 19:  # noqa: ASYNC110 - no event signals it
            await asyncio.sleep(0)

    assert all(hit.result().degraded for hit in hits if hit.done())
    (waiting,) = (hit for hit in hits if not hit.done())
    server.resume()
    assert not (await waiting).degraded
    assert not (await limiter.hit("a")).degraded


async def test_late_responses_are_not_mixed_up(
    server: Server, strategy: str, clock: FakeClock
) -> None:
    """After a pause of the storage, every request gets its own response."""
    limiter = SharedLimiter(
        "1000/hour", storage=url(server), strategy=strategy, timeout=BRIEF, clock=clock
    )
    await connect(limiter, clock)
    for number in range(2):
        server.stop()
        late = await asyncio.gather(*[limiter.hit(("late", number, i), i) for i in range(30)])
        assert all(decision.degraded for decision in late)
        server.resume()
        await assert_own_responses(limiter, clock, number)


async def assert_own_responses(limiter: SharedLimiter, clock: FakeClock, number: int) -> None:
    """Retry costs 1 to 29 until the storage responds to all, and compare the responses."""
    async with asyncio.timeout(PATIENCE):
        degraded = True
        while degraded:
            clock.advance(RETRY_SECONDS)
            number += 100  # unused keys
            decisions = await asyncio.gather(*[limiter.hit((number, i), i) for i in range(1, 30)])
            used = {
                cost: 1000 - decision.remaining
                for cost, decision in enumerate(decisions, start=1)
                if not decision.degraded
            }
            assert used == {cost: cost for cost in used}
            degraded = len(used) < len(decisions)


async def test_cancelled_request_is_not_an_outage(
    server: Server, strategy: str, log: pytest.LogCaptureFixture
) -> None:
    """Other requests on the same connection get their own responses."""
    limiter = SharedLimiter("1000/hour", storage=url(server), strategy=strategy, timeout=PATIENCE)
    for warm in (False, True):  # while connecting, and when connect
        server.stop()
        leaving = [asyncio.create_task(limiter.hit(("left", warm, i), i)) for i in range(20)]
        await asyncio.wait(leaving, timeout=0.02)
        for hit in leaving:
            hit.cancel()
        results = await asyncio.gather(*leaving, return_exceptions=True)
        server.resume()
        decisions = await asyncio.gather(*[limiter.hit((warm, i), i) for i in range(1, 20)])

        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert [1000 - decision.remaining for decision in decisions] == list(range(1, 20))
        assert not any(decision.degraded for decision in decisions)
    assert levels(log) == []


async def test_slow_connection_is_closed_with_its_requests(
    memcached: Server,
) -> None:
    """Closing a limiter with a slow Memcached leaves no connection and no error."""
    limiter = SharedLimiter("100/hour", storage=url(memcached), timeout=PATIENCE)
    await limiter.hit("a")
    memcached.stop()
    slow = asyncio.create_task(limiter.hit("a"))
    await asyncio.wait([slow], timeout=0.5)
    memcached.resume()
    assert not (await slow).degraded

    memcached.stop()
    hits = [asyncio.create_task(limiter.hit("a")) for _ in range(3)]
    await asyncio.wait(hits, timeout=0.02)
    await limiter.aclose()
    memcached.resume()

    assert all(decision.degraded for decision in await asyncio.gather(*hits))


async def test_peek_reset_and_charge_work_locally_during_an_outage(clock: FakeClock) -> None:
    """These methods use the in-memory limiter and raise no error."""
    limiter = SharedLimiter(
        "10/hour", storage=f"async+redis://127.0.0.1:{free_port()}", clock=clock
    )

    await limiter.hit("a")
    await limiter.charge("a", 4)
    assert await limiter.peek("a", cost=6) == Decision(False, 10, 5, 3600.0, 3600.0, degraded=True)
    await limiter.charge("a", -2, since=clock())
    assert (await limiter.peek("a")).remaining == 7
    await limiter.reset("a")
    assert (await limiter.peek("a")).remaining == 10


async def test_reset_also_removes_local_usage(redis: Server, clock: FakeClock) -> None:
    """The usage of an earlier outage does not limit the key in the next outage."""
    limiter = SharedLimiter("1/hour", storage=url(redis), timeout=PATIENCE, clock=clock)
    redis.kill()
    await limiter.hit("a")
    redis.start()
    clock.advance(RETRY_SECONDS)

    await limiter.reset("a")

    redis.kill()
    assert await limiter.hit("a") == Decision(True, 1, 0, 3600.0, 0.0, degraded=True)


async def test_hit_of_an_outage_is_not_refunded_in_the_storage(
    redis: Server, clock: FakeClock
) -> None:
    """The storage has not counted the hit, so a refund would reduce other usage."""
    limiter = SharedLimiter("10/hour", storage=url(redis), timeout=PATIENCE, clock=clock)
    await limiter.hit("a", cost=5)
    redis.stop()
    leaving = asyncio.create_task(limiter.hit("b"))
    await asyncio.wait([leaving], timeout=0.02)
    await asyncio.to_thread(redis.kill)
    assert (await leaving).degraded
    since = clock()
    clock.advance(RETRY_SECONDS)
    redis.start()
    await limiter.hit("a", cost=5)

    await limiter.charge("a", -5, since=since)
    assert (await limiter.peek("a")).remaining == 5
    await limiter.charge("a", -5, since=clock())
    assert (await limiter.peek("a")).remaining == 10


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_is_an_outage(
    log: pytest.LogCaptureFixture,
) -> None:
    """The drivers do not support trio, which is logged; requests are decided by `on_error`."""
    limiter = SharedLimiter("1/hour", storage="async+redis://127.0.0.1:1")

    assert (await limiter.hit("a"))[0]
    assert not (await limiter.hit("a"))[0]
    assert (await limiter.peek("a")).degraded
    await limiter.aclose()
    assert levels(log) == ["WARNING"]
    assert "the drivers support asyncio only, not trio" in log.text


async def test_log_states_storage_reason_and_fallback(log: pytest.LogCaptureFixture) -> None:
    """The line has the URL of the storage, the error and the effect of `on_error`."""
    address = f"127.0.0.1:{free_port()}"
    limiter = SharedLimiter("1/hour", storage=f"async+redis://{address}", on_error="deny")

    await limiter.hit("a")

    (record,) = log.records
    assert f"rate limit storage async+redis://{address} is unavailable (" in record.message
    assert "until it recovers, every request is rejected" in record.message


async def test_failed_retries_are_not_logged(
    clock: FakeClock, log: pytest.LogCaptureFixture
) -> None:
    """An outage is logged once, regardless of the number of retries."""
    storage = f"async+redis://127.0.0.1:{free_port()}"
    limiter = SharedLimiter("1/hour", storage=storage, clock=clock)

    for _ in range(5):
        assert (await limiter.hit("a")).degraded
        clock.advance(RETRY_SECONDS)

    assert levels(log) == ["WARNING"]


async def test_wrong_password_is_an_outage_and_not_logged(
    locked_redis: Server, log: pytest.LogCaptureFixture
) -> None:
    """A password may have any characters, percent-encoded; neither password is logged."""
    address = locked_redis.place
    wrong = SharedLimiter("1/hour", storage=f"async+redis://:hunter3@{address}", timeout=PATIENCE)
    right = SharedLimiter(
        "1/hour", storage=f"async+redis://:hunter%402%2F%3F%23@{address}", timeout=PATIENCE
    )

    assert (await wrong.hit("a")).degraded
    assert not (await right.hit("a")).degraded
    locked_redis.kill()
    assert (await right.hit("a")).degraded

    assert levels(log) == ["WARNING", "WARNING"]
    assert "hunter" not in log.text


async def test_burst_on_an_unavailable_storage_connects_once(
    log: pytest.LogCaptureFixture,
) -> None:
    """One request tries to connect, and all waiting requests are decided with it."""
    storage = f"async+redis://127.0.0.1:{free_port()}"
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)

    decisions = await asyncio.gather(*[limiter.hit("a") for _ in range(30)])

    assert all(decision.degraded for decision in decisions)
    assert sum(decision.allowed for decision in decisions) == 10
    assert levels(log) == ["WARNING"]


async def test_driver_that_cannot_be_imported_is_an_outage(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """Errors of any type are an outage and fail no request."""
    limiter = SharedLimiter("1/hour", storage="async+redis://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "coredis.retry", None)

    assert (await limiter.hit("a")).degraded
    assert "ModuleNotFoundError" in log.text


async def test_next_request_tries_after_the_timeout_of_the_first(clock: FakeClock) -> None:
    """A request that tries the storage and never reports does not block later tries."""
    breaker = CircuitBreaker("storage", fallback="wait", timeout=5.0, clock=clock)
    breaker.record_failure("it broke")

    clock.advance(RETRY_SECONDS)
    assert breaker.allows()
    clock.advance(5.0)
    assert not breaker.allows()
    clock.advance(RETRY_SECONDS)
    assert breaker.allows()


async def test_end_of_an_outage_is_logged_once(
    clock: FakeClock, log: pytest.LogCaptureFixture
) -> None:
    """Two requests that both succeed result in one line."""
    breaker = CircuitBreaker("storage", fallback="wait", timeout=5.0, clock=clock)
    breaker.record_failure("it broke")

    breaker.record_success(wrote=False)
    breaker.record_success(wrote=False)

    assert levels(log) == ["WARNING", "INFO"]
    assert not breaker.down
