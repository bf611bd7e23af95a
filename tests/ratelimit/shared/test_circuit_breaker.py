"""What the shared limiter does while its storage is away, slow, or confused."""

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


BRIEF = 0.5  # seconds that a decision may wait, where the storage does not answer


ALLOWED = Decision(True, 100, 100, 3600.0, 0.0, degraded=True)


DENIED = Decision(False, 100, 0, 1.0, 1.0, degraded=True)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the limiter writes to the log."""
    with caplog.at_level(logging.INFO, logger="tokenpulse_mw.ratelimit"):
        yield caplog


async def connected(limiter: SharedLimiter, clock: FakeClock) -> None:
    """Ask until the storage, which may be slow at first, has answered in time."""
    async with asyncio.timeout(PATIENCE):
        while (await limiter.hit("a")).degraded:
            clock.advance(RETRY_SECONDS)


def levels(told: pytest.LogCaptureFixture) -> list[str]:
    """How loud each line was."""
    return [record.levelname for record in told.records if "storage" in record.message]


@pytest.mark.parametrize("on_error", ["local", "allow", "deny"])
async def test_a_storage_that_dies_in_the_middle_of_traffic(
    server: Server,
    strategy: str,
    on_error: str,
    clock: FakeClock,
    told: pytest.LogCaptureFixture,
) -> None:
    """Every request is decided as configured, until the storage is back; the log says so once."""
    limiter = SharedLimiter(
        "100/hour",
        storage=url(server),
        strategy=strategy,
        on_error=on_error,
        timeout=PATIENCE,
        clock=clock,
    )
    assert not (await limiter.hit("a")).degraded

    server.stop()  # so that all that follow are on their way
    hits = [asyncio.create_task(limiter.hit("a")) for _ in range(30)]
    await asyncio.gather(*hits, asyncio.to_thread(server.kill))

    decisions = [hit.result() for hit in hits] + [await limiter.hit("a") for _ in range(90)]
    if on_error == "local":
        assert all(decision.degraded for decision in decisions)
        assert sum(decision.allowed for decision in decisions) == 100
    else:
        assert set(decisions) == {ALLOWED if on_error == "allow" else DENIED}
    assert levels(told) == ["WARNING"]

    server.start()
    assert (await limiter.hit("b")).degraded  # nobody has tried it yet
    clock.advance(RETRY_SECONDS)
    assert [(await limiter.hit("b")).degraded for _ in range(3)] == [False] * 3
    assert levels(told) == ["WARNING", "INFO"]


async def test_connection_that_is_lost_is_not_written_to(redis: Server) -> None:
    """The event loop is not left waiting for a file descriptor that it has closed."""
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


async def test_a_storage_that_hangs_is_waited_for_once(
    server: Server, strategy: str, clock: FakeClock
) -> None:
    """The first request waits for the timeout, those that follow for nothing."""
    limiter = SharedLimiter(
        "100/hour", storage=url(server), strategy=strategy, timeout=BRIEF, clock=clock
    )
    await connected(limiter, clock)
    server.stop()

    async with asyncio.timeout(PATIENCE):
        assert (await limiter.hit("a")).degraded
    for _ in range(20):
        with pytest.raises(StopIteration) as decided:
            limiter.hit("a").send(None)  # it would stop here to wait for anything at all
        assert decided.value.value.degraded


async def test_one_request_a_second_tries_again(server: Server, clock: FakeClock) -> None:
    """It alone waits for the answer; the others are decided without."""
    limiter = SharedLimiter("100/hour", storage=url(server), timeout=PATIENCE, clock=clock)
    server.kill()
    assert (await limiter.hit("a")).degraded
    server.start()
    server.stop()

    clock.advance(RETRY_SECONDS)
    hits = [asyncio.create_task(limiter.hit("a")) for _ in range(20)]
    async with asyncio.timeout(PATIENCE):
        while sum(hit.done() for hit in hits) < 19:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)

    assert all(hit.result().degraded for hit in hits if hit.done())
    (waiting,) = (hit for hit in hits if not hit.done())
    server.go_on()
    assert not (await waiting).degraded
    assert not (await limiter.hit("a")).degraded


async def test_answers_are_not_mixed_up(server: Server, strategy: str, clock: FakeClock) -> None:
    """A storage that stood still gives each request its own answer when it goes on."""
    limiter = SharedLimiter(
        "1000/hour", storage=url(server), strategy=strategy, timeout=BRIEF, clock=clock
    )
    await connected(limiter, clock)
    for number in range(2):
        server.stop()
        late = await asyncio.gather(*[limiter.hit(("late", number, i), i) for i in range(30)])
        assert all(decision.degraded for decision in late)
        server.go_on()
        await until_all_are_answered(limiter, clock, number)


async def until_all_are_answered(limiter: SharedLimiter, clock: FakeClock, number: int) -> None:
    """Ask for 1 to 29 until the storage, which may be slow at first, has answered each.

    Whatever it answers is the answer to what was asked.
    """
    async with asyncio.timeout(PATIENCE):
        degraded = True
        while degraded:
            clock.advance(RETRY_SECONDS)
            number += 100  # nobody has asked these before
            asked = await asyncio.gather(*[limiter.hit((number, i), i) for i in range(1, 30)])
            answers = {i: each for i, each in enumerate(asked, start=1) if not each.degraded}
            assert {i: 1000 - each.remaining for i, each in answers.items()} == {
                i: i for i in answers
            }
            degraded = len(answers) < len(asked)


async def test_a_request_that_breaks_off_is_no_outage(
    server: Server, strategy: str, told: pytest.LogCaptureFixture
) -> None:
    """Its client has left; the connection goes on to serve others, and answers each its own."""
    limiter = SharedLimiter("1000/hour", storage=url(server), strategy=strategy, timeout=PATIENCE)
    for warm in (False, True):  # while it connects, and when it has
        server.stop()
        leaving = [asyncio.create_task(limiter.hit(("left", warm, i), i)) for i in range(20)]
        await asyncio.wait(leaving, timeout=0.02)
        for hit in leaving:
            hit.cancel()
        results = await asyncio.gather(*leaving, return_exceptions=True)
        server.go_on()
        asked = await asyncio.gather(*[limiter.hit((warm, i), i) for i in range(1, 20)])

        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert [1000 - decision.remaining for decision in asked] == list(range(1, 20))
        assert not any(decision.degraded for decision in asked)
    assert levels(told) == []


async def test_connection_that_answered_slowly_is_closed_with_its_requests(
    memcached: Server,
) -> None:
    """A slow Memcached leaves neither a connection nor an error behind when the limiter closes."""
    limiter = SharedLimiter("100/hour", storage=url(memcached), timeout=PATIENCE)
    await limiter.hit("a")
    memcached.stop()
    slow = asyncio.create_task(limiter.hit("a"))
    await asyncio.wait([slow], timeout=0.5)
    memcached.go_on()
    assert not (await slow).degraded

    memcached.stop()
    hits = [asyncio.create_task(limiter.hit("a")) for _ in range(3)]
    await asyncio.wait(hits, timeout=0.02)
    await limiter.aclose()
    memcached.go_on()

    assert all(decision.degraded for decision in await asyncio.gather(*hits))


async def test_peek_reset_and_charge_do_without_the_storage(clock: FakeClock) -> None:
    """They look at, forget and count what this process has seen, and fail no request."""
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


async def test_a_reset_also_forgets_what_was_seen_in_an_outage(
    redis: Server, clock: FakeClock
) -> None:
    """Else a client would be limited again in the next one."""
    limiter = SharedLimiter("1/hour", storage=url(redis), timeout=PATIENCE, clock=clock)
    redis.kill()
    await limiter.hit("a")
    redis.start()
    clock.advance(RETRY_SECONDS)

    await limiter.reset("a")

    redis.kill()
    assert await limiter.hit("a") == Decision(True, 1, 0, 3600.0, 0.0, degraded=True)


async def test_what_was_taken_in_an_outage_is_given_back_where_it_was_taken(
    redis: Server, clock: FakeClock
) -> None:
    """The storage has not counted it, and is not to forget what others have used."""
    limiter = SharedLimiter("10/hour", storage=url(redis), timeout=PATIENCE, clock=clock)
    await limiter.hit("a", cost=5)
    redis.stop()
    leaving = asyncio.create_task(limiter.hit("b"))
    await asyncio.wait([leaving], timeout=0.02)
    await asyncio.to_thread(redis.kill)
    assert (await leaving).degraded
    taken = clock()
    clock.advance(RETRY_SECONDS)
    redis.start()
    await limiter.hit("a", cost=5)

    await limiter.charge("a", -5, since=taken)
    assert (await limiter.peek("a")).remaining == 5
    await limiter.charge("a", -5, since=clock())
    assert (await limiter.peek("a")).remaining == 10


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_without_asyncio_every_decision_is_one_of_an_outage(
    told: pytest.LogCaptureFixture,
) -> None:
    """There is no driver for trio; the log says so, and requests are decided as configured."""
    limiter = SharedLimiter("1/hour", storage="async+redis://127.0.0.1:1")

    assert (await limiter.hit("a"))[0]
    assert not (await limiter.hit("a"))[0]
    assert (await limiter.peek("a")).degraded
    await limiter.aclose()
    assert levels(told) == ["WARNING"]
    assert "the drivers support asyncio only, not trio" in told.text


async def test_the_log_says_what_is_done_meanwhile(told: pytest.LogCaptureFixture) -> None:
    """With the place of the storage and the reason."""
    place = f"127.0.0.1:{free_port()}"
    limiter = SharedLimiter("1/hour", storage=f"async+redis://{place}", on_error="deny")

    await limiter.hit("a")

    (record,) = told.records
    assert f"rate limit storage async+redis://{place} is unavailable (" in record.message
    assert "until it recovers, every request is rejected" in record.message


async def test_the_log_repeats_nothing(clock: FakeClock, told: pytest.LogCaptureFixture) -> None:
    """However often the storage is tried in vain."""
    storage = f"async+redis://127.0.0.1:{free_port()}"
    limiter = SharedLimiter("1/hour", storage=storage, clock=clock)

    for _ in range(5):
        assert (await limiter.hit("a")).degraded
        clock.advance(RETRY_SECONDS)

    assert levels(told) == ["WARNING"]


async def test_a_wrong_password_is_an_outage_that_does_not_tell_it(
    locked_redis: Server, told: pytest.LogCaptureFixture
) -> None:
    """The right one may have any characters, written as in every URL; neither is logged."""
    place = locked_redis.place
    wrong = SharedLimiter("1/hour", storage=f"async+redis://:hunter3@{place}", timeout=PATIENCE)
    right = SharedLimiter(
        "1/hour", storage=f"async+redis://:hunter%402%2F%3F%23@{place}", timeout=PATIENCE
    )

    assert (await wrong.hit("a")).degraded
    assert not (await right.hit("a")).degraded
    locked_redis.kill()
    assert (await right.hit("a")).degraded

    assert levels(told) == ["WARNING", "WARNING"]
    assert "hunter" not in told.text


async def test_a_burst_that_finds_the_storage_away_does_not_try_one_by_one(
    told: pytest.LogCaptureFixture,
) -> None:
    """One request tries to connect, and all that waited for it are decided with it."""
    storage = f"async+redis://127.0.0.1:{free_port()}"
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)

    decisions = await asyncio.gather(*[limiter.hit("a") for _ in range(30)])

    assert all(decision.degraded for decision in decisions)
    assert sum(decision.allowed for decision in decisions) == 10
    assert levels(told) == ["WARNING"]


async def test_whatever_goes_wrong_is_an_outage(
    monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    """Also a driver that can no longer be loaded."""
    limiter = SharedLimiter("1/hour", storage="async+redis://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "coredis.retry", None)

    assert (await limiter.hit("a")).degraded
    assert "ModuleNotFoundError" in told.text


async def test_a_request_that_tries_has_its_time(clock: FakeClock) -> None:
    """Nobody tries beside it before it must have failed; if it never tells, another does."""
    outage = CircuitBreaker("storage", meanwhile="wait", patience=5.0, clock=clock)
    outage.record_failure("it broke")

    clock.advance(RETRY_SECONDS)
    assert outage.allows()
    clock.advance(5.0)
    assert not outage.allows()
    clock.advance(RETRY_SECONDS)
    assert outage.allows()


async def test_the_end_of_an_outage_is_told_once(
    clock: FakeClock, told: pytest.LogCaptureFixture
) -> None:
    """Also where two requests have found it, each in its time."""
    outage = CircuitBreaker("storage", meanwhile="wait", patience=5.0, clock=clock)
    outage.record_failure("it broke")

    outage.answered(wrote=False)
    outage.answered(wrote=False)

    assert levels(told) == ["WARNING", "INFO"]
    assert not outage.down
