"""Requests that wait at the same time, on a real Redis."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenpulse_mw import Decision
from tokenpulse_mw.ratelimit.shared.batches import MAX_TRANSACTIONS
from tokenpulse_mw.ratelimit.shared.circuit_breaker import RETRY_SECONDS
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

from ...support.clock import FakeClock
from ...support.servers import Server, free_port
from ...support.waiting import PATIENCE
from .conftest import direct_client, url

pytestmark = pytest.mark.anyio

LIMIT = 10


def on(server: Server, limit: str, **more: Any) -> SharedLimiter:
    """Return a limiter on a Redis."""
    return SharedLimiter(limit, storage=url(server), **{"timeout": PATIENCE, **more})


async def scripts_run(server: Server) -> int:
    """Return the number of scripts that a Redis has run."""
    async with direct_client(server) as client:
        stats: dict[str, Any] = await client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


async def test_concurrent_hits_are_decided_by_one_script(redis: Server, strategy: str) -> None:
    """Hits of the same step of the event loop are sent together, also with peeks and charges."""
    limiter = on(redis, "1000/hour", strategy=strategy)
    await limiter.hit("a")
    before = await scripts_run(redis)

    await asyncio.gather(*[limiter.hit(f"k{number}") for number in range(60)], limiter.peek("a"))

    assert await scripts_run(redis) == before + 1


async def test_hits_during_a_call_are_sent_together_when_it_ends(redis: Server) -> None:
    """The first hit is sent at once, and the second call has all others."""
    limiter = on(redis, "1000/hour")
    await limiter.hit("a")
    before = await scripts_run(redis)
    redis.stop()
    hits = []
    for _ in range(50):
        hits.append(asyncio.create_task(limiter.hit("a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    redis.resume()

    decisions = await asyncio.gather(*hits)

    assert [decision.remaining for decision in decisions] == list(range(998, 948, -1))
    assert await scripts_run(redis) == before + 2


@pytest.mark.parametrize(
    ("hits", "scripts"),
    [(MAX_TRANSACTIONS, 1), (MAX_TRANSACTIONS + 1, 2), (3 * MAX_TRANSACTIONS + 1, 4)],
)
async def test_script_has_a_bounded_size(redis: Server, hits: int, scripts: int) -> None:
    """A full script is sent without waiting for the one before it."""
    limiter = on(redis, "1000/hour")
    await limiter.hit("a")
    before = await scripts_run(redis)

    decisions = await asyncio.gather(*[limiter.hit("a") for _ in range(hits)])

    assert [decision.remaining for decision in decisions] == list(range(998, 998 - hits, -1))
    assert await scripts_run(redis) == before + scripts


async def test_queue_is_bounded_while_the_storage_does_not_respond(redis: Server) -> None:
    """Hits beyond a full script are sent, as without batches, and decided in their order."""
    limiter = on(redis, "1000/hour")
    await limiter.hit("a")
    redis.stop()
    hits = []
    for _ in range(2 * MAX_TRANSACTIONS + 5):
        hits.append(asyncio.create_task(limiter.hit("a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    (queue,) = limiter._windows.batches._queues.values()  # type: ignore[attr-defined]
    assert len(queue.waiting) <= MAX_TRANSACTIONS
    redis.resume()

    decisions = await asyncio.gather(*hits)

    assert [decision.remaining for decision in decisions] == list(range(998, 998 - len(hits), -1))


async def test_burst_on_an_unavailable_storage_connects_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All scripts of the burst fail with the first connection."""
    storage = f"redis://127.0.0.1:{free_port()}"
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)

    hits = 2 * MAX_TRANSACTIONS
    decisions = await asyncio.gather(*[limiter.hit("a") for _ in range(hits)])

    assert all(decision.degraded for decision in decisions)
    assert sum(decision.allowed for decision in decisions) == 10
    assert len(caplog.records) == 1


operations = st.lists(
    st.tuples(
        st.sampled_from(["hit", "hit", "hit", "peek", "charge", "reset"]),
        st.sampled_from("ab"),
        st.integers(-3, 2 * LIMIT // 3),
    ),
    max_size=40,
)


def expected(used: dict[str, int], kind: str, key: str, amount: int) -> tuple[bool, int] | None:
    """Apply an operation to the model, and return whether it is allowed and what remains."""
    before = used.get(key, 0)
    if kind == "reset":
        used[key] = 0
    elif kind == "charge":
        used[key] = max(before + amount, 0)
    else:
        cost = abs(amount)
        allowed = before + cost <= LIMIT
        if allowed and kind == "hit":
            used[key] = before + cost
        return allowed, max(LIMIT - used.get(key, 0), 0)
    return None


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=operations)
def test_batch_is_decided_as_one_operation_after_the_other(
    redis: Server, batch: list[tuple[str, str, int]]
) -> None:
    """No key exceeds its limit, and each decision is that of the model."""
    clock = FakeClock()

    async def run() -> list[Any]:
        limiter = on(redis, f"{LIMIT}/hour", clock=clock)
        await asyncio.gather(limiter.reset("a"), limiter.reset("b"))
        calls: list[Any] = []
        for kind, key, amount in batch:
            method = getattr(limiter, kind)
            arguments = () if kind == "reset" else (amount if kind == "charge" else abs(amount),)
            calls.append(method(key, *arguments))
        results = await asyncio.gather(*calls)
        await limiter.aclose()
        return results

    used: dict[str, int] = {}
    model = [expected(used, *operation) for operation in batch]

    decisions = [
        result and (result.allowed, result.remaining) if result is not None else None
        for result in asyncio.run(run())
    ]

    assert decisions == model


async def test_cancelled_hit_is_counted(redis: Server) -> None:
    """A hit that waits for another call is sent although its caller is gone."""
    limiter = on(redis, "10/hour")
    await limiter.hit("a")
    redis.stop()
    first = asyncio.create_task(limiter.hit("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(limiter.hit("a")) for _ in range(3)]
    await asyncio.sleep(0)

    for hit in (first, waiting[1]):
        hit.cancel()
    redis.resume()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)

    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        True,
        False,
        True,
        False,
    ]
    assert (await limiter.peek("a")).remaining == 5


async def test_waiting_hits_are_decided_with_the_call_that_fails(
    redis: Server, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A hit waits at most the timeout, and the outage is logged once."""
    limiter = on(redis, "10/hour", timeout=0.5, clock=clock, on_error="deny")
    while (await limiter.hit("a")).degraded:
        clock.advance(RETRY_SECONDS)
    caplog.clear()
    redis.stop()
    hits = [asyncio.create_task(limiter.hit("b"))]
    for _ in range(3):
        await asyncio.sleep(0)
        hits.append(asyncio.create_task(limiter.hit("b")))

    decisions = await asyncio.gather(*hits)

    assert set(decisions) == {Decision(False, 10, 0, 1.0, 1.0, degraded=True)}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    redis.resume()


async def test_cancelled_hit_is_left_out_of_a_failed_call(redis: Server) -> None:
    """The others are decided without the storage."""
    limiter = on(redis, "10/hour", timeout=0.5, on_error="deny")
    redis.stop()
    hits = [asyncio.create_task(limiter.hit("b")) for _ in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)

    hits[1].cancel()
    results = await asyncio.gather(*hits, return_exceptions=True)

    assert isinstance(results[1], asyncio.CancelledError)
    denied = Decision(False, 10, 0, 1.0, 1.0, degraded=True)
    assert [results[0], results[2]] == [denied, denied]
    redis.resume()


async def test_failed_operation_fails_no_other(
    redis: Server, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A counter that another program has overwritten is an outage for its own hit."""
    limiter = on(redis, "10/hour", clock=clock)
    await limiter.hit("bad")
    async with direct_client(redis) as client:
        (name,) = await client.keys("*")
        await client.delete([name])
        await client.lpush(name, ["x"])

    decisions = await asyncio.gather(*[limiter.hit(key) for key in ("a", "bad", "b", "a")])

    assert [decision.degraded for decision in decisions] == [False, True, False, False]
    assert [decisions[number].remaining for number in (0, 2, 3)] == [9, 9, 8]
    assert "WRONGTYPE" in caplog.text


async def test_refused_writes_do_not_fail_rejections_of_the_same_script(redis: Server) -> None:
    """A rejection writes nothing, so a full storage still decides it."""
    limiter = on(redis, "1/hour", on_error="deny")
    await limiter.hit("over")
    async with direct_client(redis) as client:
        await client.config_set({"maxmemory": "1"})

    new, over, peek = await asyncio.gather(
        limiter.hit("new"), limiter.hit("over"), limiter.peek("over")
    )

    assert (new.degraded, over.degraded, peek.degraded) == (True, False, False)
    assert not over.allowed


async def test_closed_limiter_completes_the_hits_that_wait(redis: Server) -> None:
    """They are sent when the call in progress ends, before the connection is closed."""
    limiter = on(redis, "10/hour")
    await limiter.hit("a")
    redis.stop()
    hits = [asyncio.create_task(limiter.hit("a"))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    hits.append(asyncio.create_task(limiter.hit("a")))
    closing = asyncio.create_task(limiter.aclose())
    await asyncio.sleep(0)
    redis.resume()
    await closing

    decisions = await asyncio.gather(*hits)

    assert [(decision.remaining, decision.degraded) for decision in decisions] == [
        (8, False),
        (7, False),
    ]


def test_event_loop_that_ends_cancels_its_hits(redis: Server) -> None:
    """Nothing waits forever, and a later event loop has its own queue."""
    limiter = on(redis, "10/hour")
    results: list[BaseException | Decision] = []

    async def hit() -> None:
        try:
            results.append(await limiter.hit("a"))
        except asyncio.CancelledError as error:
            results.append(error)

    async def leave() -> None:
        await limiter.hit("a")
        redis.stop()
        tasks = {asyncio.create_task(hit()) for _ in range(2)}
        await asyncio.sleep(0)
        (call,) = limiter._client._calls
        call.cancel()
        await asyncio.wait(tasks)
        redis.resume()

    asyncio.run(leave())
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert not asyncio.run(limiter.hit("a")).degraded
    assert len(limiter._windows.batches._queues) == 1  # type: ignore[attr-defined]


async def test_two_limiters_share_counters_in_concurrent_scripts(redis: Server) -> None:
    """Together they allow exactly the limit."""
    limiters = [on(redis, "50/hour") for _ in range(2)]

    decisions = await asyncio.gather(
        *[limiters[number % 2].hit("a") for number in range(200)],
    )

    assert sum(decision.allowed for decision in decisions) == 50
