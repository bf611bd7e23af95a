"""Limit of the concurrent requests in several processes, on a real server."""

from __future__ import annotations

import asyncio
import logging
import math
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tokenpulse_mw import Decision, SharedInFlight
from tokenpulse_mw.ratelimit.shared.circuit_breaker import RETRY_SECONDS
from tokenpulse_mw.ratelimit.shared.redis import SlotsOnRedis

from ...support.clock import FakeClock
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import direct_client, url

pytestmark = pytest.mark.anyio

UNAVAILABLE = "redis://127.0.0.1:1"
BRIEF = 0.5  # seconds; lease in tests that wait for its end or extension

# Takes slots of one key concurrently after a line on its input, prints how many it got, and holds
# them until it is killed.
WORKER = """
import asyncio, sys
from tokenpulse_mw import SharedInFlight

async def main(storage, lease, hits):
    slots = SharedInFlight(100, storage=storage, lease=lease, timeout=60)
    await slots.peek("client")
    print("ready", flush=True)
    sys.stdin.readline()
    decisions = await asyncio.gather(*[slots.hit("client") for _ in range(hits)])
    assert not any(decision.degraded for decision in decisions)
    print(sum(decision.allowed for decision in decisions), flush=True)
    await asyncio.sleep(60)

asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
"""


class Worker:
    """Process that takes slots.

    Args:
        server: Redis.
        lease: Seconds.
        hits: Requests of the process.
    """

    def __init__(self, server: Server, *, lease: float, hits: int) -> None:
        command = [sys.executable, "-c", WORKER, url(server), str(lease), str(hits)]
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready\n"

    def begin(self) -> None:
        """Let the process take its slots."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def taken(self) -> int:
        """Return the number of slots of the process."""
        return int(self._line())

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def slots_on(server: Server, limit: int, **more: Any) -> SharedInFlight:
    """Return a limiter on a Redis."""
    return SharedInFlight(limit, storage=url(server), **{"timeout": PATIENCE, **more})


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `holds` returns True."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - no event signals a change in the storage
            await asyncio.sleep(0.005)


async def until_free(slots: SharedInFlight, free: int, key: str = "a") -> None:
    """Wait until `free` slots are free in the storage."""

    async def is_free() -> bool:
        decision = await slots.peek(key, 0)
        return (decision.remaining, decision.degraded) == (free, False)

    await until(is_free)


async def leases(server: Server) -> dict[str, float]:
    """Return the ends of all leases in a Redis, with those that have passed."""
    async with direct_client(server) as client:
        found: dict[str, float] = {}
        for name in await client.keys("*"):
            pairs = await client.zrange(name, 0, -1, withscores=True)
            found |= dict(pairs)  # type: ignore[arg-type]
        return found


async def test_request_without_a_free_slot_is_rejected(redis: Server) -> None:
    """The wait is a second, since it is unknown when a slot becomes free."""
    slots = slots_on(redis, 2)

    assert await slots.hit("a") == Decision(True, 2, 1, 0.0, 0.0)
    assert await slots.hit("a") == Decision(True, 2, 0, 0.0, 0.0)
    assert await slots.hit("a") == Decision(False, 2, 0, 0.0, 1.0)
    assert (await slots.hit("b")).allowed


async def test_released_slot_is_free(redis: Server) -> None:
    """A slot can be taken again after every release, also by another process."""
    first, second = slots_on(redis, 1), slots_on(redis, 1)

    for slots, other in [(first, second), (second, first)] * 2:
        assert (await slots.hit("a")).allowed
        assert not (await other.hit("a")).allowed
        slots.release("a")
        await until_free(other, 1)
    assert len(first) == len(second) == 0


async def test_peek_takes_no_slot(redis: Server) -> None:
    """`peek` returns the decision on the next request."""
    slots = slots_on(redis, 1)

    assert await slots.peek("a") == await slots.peek("a") == Decision(True, 1, 1, 0.0, 0.0)
    await slots.hit("a")
    assert await slots.peek("a") == Decision(False, 1, 0, 0.0, 1.0)


async def test_request_may_take_several_slots(redis: Server) -> None:
    """A request takes all of its slots, or none if too few are free."""
    slots = slots_on(redis, 5)

    assert await slots.hit("a", 3) == Decision(True, 5, 2, 0.0, 0.0)
    assert await slots.hit("a", 3) == Decision(False, 5, 2, 0.0, 1.0)
    assert await slots.hit("a", 0) == Decision(True, 5, 2, 0.0, 0.0)
    assert (await slots.hit("a", 2)).allowed
    slots.release("a", 3)
    slots.release("b")
    await until_free(slots, 3)
    slots.release("a", 9)
    await until_free(slots, 5)


async def test_cost_above_the_limit_has_an_infinite_wait(redis: Server) -> None:
    """A request that needs more slots than the limit is never allowed, and takes none."""
    slots = slots_on(redis, 2)

    assert await slots.hit("a", 10**12) == Decision(False, 2, 2, 0.0, math.inf)


async def test_limiters_with_different_prefixes_have_separate_slots(redis: Server) -> None:
    """Applications can share a storage by using different prefixes."""
    chat, images = slots_on(redis, 1, prefix="chat"), slots_on(redis, 1, prefix="images")

    assert chat.counters != images.counters
    assert (await chat.hit("a")).allowed
    assert (await images.hit("a")).allowed
    assert not (await chat.hit("a")).allowed


@pytest.mark.server
async def test_two_processes_together_take_exactly_the_limit(redis: Server) -> None:
    """This holds with hundreds of concurrent requests; slots of killed processes become free."""
    slots = slots_on(redis, 100)
    workers = [Worker(redis, lease=3 * BRIEF, hits=200) for _ in range(2)]
    try:
        for worker in workers:
            worker.begin()
        taken = [worker.taken() for worker in workers]
        assert sum(taken) == 100
        before = await leases(redis)
        await until(lambda: extended(redis, before))
        assert not (await slots.hit("client")).allowed

        workers[0].kill()
        await until_free(slots, taken[0], key="client")
    finally:
        for worker in workers:
            worker.kill()
    await until_free(slots, 100, key="client")


async def extended(server: Server, before: dict[str, float]) -> bool:
    """Return True if all leases end after those before would have."""
    now = await leases(server)
    return now.keys() == before.keys() and min(now.values()) > max(before.values())


async def test_lease_is_extended_while_the_request_lasts(redis: Server) -> None:
    """The task that extends leases ends when no slot is held, and starts again."""
    slots = slots_on(redis, 500, lease=BRIEF)

    for _ in range(2):
        await slots.hit("a", 250)
        await slots.hit("b")
        before = await leases(redis)
        assert len(before) == 251
        await until(lambda before=before: extended(redis, before))  # type: ignore[misc]
        (held,) = slots._held.values()
        slots.release("a", 250)
        slots.release("b")
        assert held.task is not None
        await held.task
        assert held.task is None
        await slots.aclose()  # waits for the releases
        assert await leases(redis) == {}


async def test_slot_without_a_process_is_free_after_its_lease(redis: Server) -> None:
    """Its lease ends by the clock of the server, and the next request removes it."""
    slots, other = (slots_on(redis, 3, lease=BRIEF) for _ in range(2))
    await slots.hit("a")
    await other.hit("a")

    slots.clear()  # as if the process had been killed
    assert (len(slots), slots.clears) == (0, 1)
    await until_free(other, 2)

    assert (await other.hit("a", 2)).allowed
    assert len(await leases(redis)) == 3


async def test_every_key_expires_and_contains_no_secret(redis: Server) -> None:
    """The storage does not grow with the number of past clients."""
    slots = slots_on(redis, 2)

    await slots.hit("sk-secret" * 1000)
    await slots.peek("b")
    await slots.hit("c", 0)

    async with direct_client(redis) as client:
        (name,) = await client.keys("*")
        assert 0 < await client.pttl(name) <= 30_000
    assert "secret" not in name
    assert len(name) < 100


async def test_process_counts_its_requests_during_an_outage(
    redis: Server, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests from before the outage count too, and all are counted in the storage after it."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.ratelimit")
    slots = slots_on(redis, 3, clock=clock, lease=BRIEF)
    assert not (await slots.hit("a")).degraded

    redis.kill()
    decisions = [await slots.hit("a") for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    assert decisions[0] == Decision(True, 3, 1, 0.0, 0.0, degraded=True)
    assert await slots.peek("a") == Decision(False, 3, 0, 0.0, 1.0, degraded=True)
    slots.release("a")
    assert (await slots.peek("a")).remaining == 1

    redis.start()
    clock.advance(RETRY_SECONDS + PATIENCE)
    other = slots_on(redis, 3)
    await until_free(other, 1)
    slots.release("a", 2)
    await until_free(other, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_requests_of_an_outage_may_exceed_the_limit_until_they_end(
    redis: Server, clock: FakeClock
) -> None:
    """All are counted after the outage, and no further request is allowed before enough end."""
    processes = [slots_on(redis, 1, clock=clock, lease=BRIEF) for _ in range(3)]
    redis.kill()
    for slots in processes[1:]:
        assert (await slots.hit("a")).allowed

    redis.start()
    clock.advance(RETRY_SECONDS + PATIENCE)

    async def both_are_counted() -> bool:
        return len(await leases(redis)) == 2

    await until(both_are_counted)
    assert await processes[0].hit("a") == Decision(False, 1, 0, 0.0, 1.0)
    assert await processes[0].hit("a", 0) == Decision(True, 1, 0, 0.0, 0.0)
    for slots in processes[1:]:
        slots.release("a")
    await until_free(processes[0], 1)


@pytest.mark.parametrize(
    ("on_error", "decision"),
    [
        ("allow", Decision(True, 1, 0, 0.0, 0.0, degraded=True)),
        ("deny", Decision(False, 1, 0, 0.0, 1.0, degraded=True)),
    ],
)
async def test_requests_are_decided_by_on_error_during_an_outage(
    on_error: str, decision: Decision
) -> None:
    """All requests are allowed, or none."""
    slots = SharedInFlight(1, storage=UNAVAILABLE, on_error=on_error)

    assert [await slots.hit("a") for _ in range(3)] == [decision] * 3


async def test_slot_of_a_cancelled_request_is_released(redis: Server) -> None:
    """The storage may have taken it for a request that is cancelled meanwhile."""
    slots = slots_on(redis, 1)
    await slots.peek("a")

    redis.stop()
    waiting = asyncio.create_task(slots.hit("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    redis.resume()
    await slots.aclose()
    assert await leases(redis) == {}

    # The same if the request is cancelled when the response has arrived.
    waiting = asyncio.create_task(slots.hit("a"))
    await asyncio.sleep(0)
    (call,) = slots._client._calls
    call.add_done_callback(lambda _: waiting.cancel())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await slots.aclose()
    assert await leases(redis) == {}
    assert len(slots) == 0


async def test_slot_released_during_its_extension_stays_free(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extension may reach the storage after the release, and takes the slot again."""
    slots, other = slots_on(redis, 2), slots_on(redis, 2)
    await slots.hit("a", 2)
    (held,) = slots._held.values()
    extend = SlotsOnRedis.extend

    async def extend_late(self: SlotsOnRedis, key: str, members: list[str]) -> None:
        slots.release("a")
        await until_free(other, 1)
        await extend(self, key, members)

    monkeypatch.setattr(SlotsOnRedis, "extend", extend_late)
    await slots._extend_keys(held, list(held.members))

    await until_free(other, 1)
    assert held.count(*held.members) == 1


async def test_release_is_complete_when_the_limiter_is_closed(redis: Server) -> None:
    """`aclose` waits for releases, ends the task without slots, and the limiter reconnects."""
    slots = slots_on(redis, 1)
    await slots.hit("a")
    await slots.aclose()  # a request in progress keeps its slot
    assert len(await leases(redis)) == 1

    slots.release("a")
    await slots.aclose()
    assert await leases(redis) == {}
    assert [held.task for held in slots._held.values()] == [None]
    assert (await slots.hit("a")).allowed


def test_slot_belongs_to_the_event_loop_of_its_request(redis: Server) -> None:
    """A later event loop, or a forked process, neither releases nor extends it."""
    slots = slots_on(redis, 2)

    async def use() -> int:
        slots.release("a")
        return (await slots.hit("a")).remaining

    assert [asyncio.run(use()) for _ in range(2)] == [1, 0]
    assert len(slots) == 1


def test_requests_on_trio_are_counted_in_the_process() -> None:
    """The drivers support asyncio only."""
    slots = SharedInFlight(1, storage=UNAVAILABLE)

    async def use() -> None:
        assert await slots.hit("a") == Decision(True, 1, 0, 0.0, 0.0, degraded=True)
        assert not (await slots.hit("a")).allowed
        slots.release("a")
        assert (await slots.hit("a")).allowed
        await slots.aclose()

    anyio.run(use, backend="trio")
    slots.release("a")
    assert len(slots) == 0


async def test_full_redis_is_an_outage(redis: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the code of the server, and a release needs no memory."""
    slots = slots_on(redis, 1)
    await slots.hit("a")
    async with direct_client(redis) as client:
        await client.config_set({"maxmemory": "1"})

        assert (await slots.hit("b")).degraded

    assert "cannot count (WriteRefusedError: OOM " in caplog.text


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
async def test_invalid_cost_is_rejected(cost: int) -> None:
    """A cost is an integer of at least 0, when slots are taken and when they are released."""
    slots = SharedInFlight(1, storage=UNAVAILABLE)

    for method in (slots.hit, slots.peek):
        with pytest.raises(ValueError, match=f"cost must be .* at least 0, got {cost!r}"):
            await method("a", cost)
    with pytest.raises(ValueError, match=f"cost must be .* at least 0, got {cost!r}"):
        slots.release("a", cost)


async def test_key_of_unsupported_type_is_rejected() -> None:
    """The key is checked before the storage is used."""
    slots = SharedInFlight(1, storage=UNAVAILABLE)

    with pytest.raises(ValueError, match="key of a shared limiter must be"):
        await slots.hit(object())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit must be an integer from 1 to 1000000, got 0"),
        ({"limit": "8/minute"}, "limit must be an integer from 1 to 1000000, got '8/minute'"),
        ({"on_error": "panic"}, "on_error must be one of local, allow, deny, got 'panic'"),
        ({"prefix": "my app"}, "prefix must be 1 to 64 letters, digits, .* got 'my app'"),
        ({"lease": 0}, "lease must be a number of seconds above 0, got 0"),
        ({"timeout": "1"}, "timeout must be a number of seconds above 0, got '1'"),
        (
            {"storage": "memcached://:hunter2@127.0.0.1:1"},
            "storage must be a Redis or Valkey, got 'memcached://.*use redis://host:6379, or InFl",
        ),
        ({"storage": "memory://"}, "storage must have a supported scheme, got"),
    ],
)
async def test_malformed_argument_is_rejected(arguments: dict[str, Any], message: str) -> None:
    """The error names the parameter, the expected value and the value it got, but no password."""
    settings: dict[str, Any] = {"limit": 1, "storage": "redis://:hunter2@127.0.0.1:1"}
    SharedInFlight(**settings)

    with pytest.raises(ValueError, match=message) as error:
        SharedInFlight(**{**settings, **arguments})
    assert "hunter2" not in str(error.value)
