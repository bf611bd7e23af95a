"""The shared limiter on real servers."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tokenpulse_mw import Decision, HttpMetrics, Policy, Settings, TokenPulse
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter, hash_key

from ...support.apps import answering
from ...support.clock import FakeClock
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import direct_client, url

pytestmark = pytest.mark.anyio

# Hits one key concurrently after a line on its input, and prints how often it was allowed.
WORKER = """
import asyncio, sys
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

async def main(storage, strategy, hits):
    limiter = SharedLimiter("100/day", storage=storage, strategy=strategy, timeout=60)
    await limiter.peek("client")
    print("ready", flush=True)
    sys.stdin.readline()
    decisions = await asyncio.gather(*[limiter.hit("client") for _ in range(hits)])
    assert not any(decision.degraded for decision in decisions)
    print(sum(decision.allowed for decision in decisions))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def on(server: Server, limit: str, strategy: str = "fixed-window") -> SharedLimiter:
    """Return a limiter on a Redis."""
    return SharedLimiter(limit, storage=url(server), strategy=strategy, timeout=PATIENCE)


async def age_counters(server: Server, seconds: float) -> None:
    """Reduce the remaining lifetime of all counters in a Redis."""
    async with direct_client(server) as client:
        for key in await client.keys("*"):
            await client.pexpire(key, await client.pttl(key) - math.ceil(seconds * 1000))


async def test_request_above_the_limit_is_rejected_with_a_wait(storage: str, strategy: str) -> None:
    """The wait of the rejection is at most two windows."""
    limiter = SharedLimiter("3/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    decisions = [await limiter.hit("a") for _ in range(4)]

    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0]
    assert [decision.limit for decision in decisions] == [3, 3, 3, 3]
    assert [decision.retry_after for decision in decisions[:3]] == [0.0, 0.0, 0.0]
    assert 0 < decisions[3].retry_after <= 2 * 3600
    assert not any(decision.degraded for decision in decisions)


async def test_fixed_window_states_its_end(storage: str) -> None:
    """The time is that of the storage, and at most a window."""
    limiter = SharedLimiter("1/minute", storage=storage, timeout=PATIENCE)

    first, second = await limiter.hit("a"), await limiter.hit("a")

    assert first == Decision(True, 1, 0, 60.0, 0.0)
    assert 50 < second.reset_after <= 60
    assert second.retry_after == second.reset_after


async def test_keys_are_limited_separately(storage: str, strategy: str) -> None:
    """Similar keys of different types or structure have separate counters."""
    limiter = SharedLimiter("1/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    for key in ["a", b"a", ("a", "b/c"), ("a/b", "c"), 7, None]:
        assert (await limiter.hit(key)).allowed
        assert not (await limiter.hit(key)).allowed


async def test_limiters_with_the_same_limit_and_strategy_share_counters(
    storage: str, strategy: str
) -> None:
    """Limiters with another limit or strategy count separately."""
    first, second = (
        SharedLimiter("1/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
        for _ in range(2)
    )
    other = SharedLimiter("2/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
    strategies = {"fixed-window", "sliding-window-counter"} - {strategy}
    other_strategy = SharedLimiter(
        "1/hour", storage=storage, strategy=strategies.pop(), timeout=PATIENCE
    )

    assert (await first.hit("a")).allowed
    assert not (await second.hit("a")).allowed
    assert (await other.hit("a")).remaining == 1
    assert (await other_strategy.hit("a")).allowed


async def test_url_of_a_vendor_opens_the_same_storage(storage: str) -> None:
    """Vendors write URLs without `async+`."""
    ours = SharedLimiter("1/hour", storage=storage, timeout=PATIENCE)
    plain = SharedLimiter("1/hour", storage=storage.removeprefix("async+"), timeout=PATIENCE)

    assert (await ours.hit("a")).allowed
    assert not (await plain.hit("a")).allowed


async def test_limiters_with_different_prefixes_count_separately(
    storage: str, strategy: str
) -> None:
    """Applications can share a storage by using different prefixes."""
    chat, images = (
        SharedLimiter("1/hour", storage=storage, strategy=strategy, prefix=prefix, timeout=PATIENCE)
        for prefix in ("chat", "images")
    )

    assert (await chat.hit("a")).allowed
    assert (await images.hit("a")).allowed
    assert not (await chat.hit("a")).allowed


async def test_rejected_request_costs_nothing(storage: str, strategy: str) -> None:
    """After the rejection of a large cost, a smaller cost is allowed."""
    limiter = SharedLimiter("10/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
    await limiter.hit("a", cost=4)

    rejected = await limiter.hit("a", cost=7)

    assert (rejected.allowed, rejected.remaining) == (False, 6)
    assert (await limiter.hit("a", cost=6)).allowed


async def test_cost_above_the_limit_has_an_infinite_wait(storage: str, strategy: str) -> None:
    """The rejected request consumes nothing."""
    limiter = SharedLimiter("10/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    rejected = await limiter.hit("a", cost=11)

    assert (rejected.allowed, rejected.remaining, rejected.retry_after) == (False, 10, math.inf)
    assert (await limiter.hit("a", cost=10)).allowed


async def test_peek_counts_nothing(storage: str, strategy: str) -> None:
    """`peek` returns the decision on the next request."""
    limiter = SharedLimiter("2/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    fresh = await limiter.peek("a", cost=2)
    await limiter.hit("a")
    used = await limiter.peek("a", cost=2)

    assert (fresh.allowed, fresh.remaining, fresh.retry_after) == (True, 2, 0.0)
    assert (used.allowed, used.remaining) == (False, 1)
    assert used.retry_after > 0
    assert (await limiter.hit("a")).allowed


async def test_reset_removes_the_usage_of_a_key(storage: str, strategy: str) -> None:
    """A limited key is allowed after a reset."""
    limiter = SharedLimiter("1/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
    await limiter.hit("a")

    await limiter.reset("a")

    assert (await limiter.hit("a")).allowed


async def test_concurrent_requests_are_counted_exactly(storage: str, strategy: str) -> None:
    """Of many concurrent requests, exactly the limit is allowed."""
    limiter = SharedLimiter("5/day", storage=storage, strategy=strategy, timeout=PATIENCE)

    decisions = await asyncio.gather(*[limiter.hit("a") for _ in range(50)])

    assert sum(decision.allowed for decision in decisions) == 5
    assert all(decision.retry_after > 0 for decision in decisions if not decision.allowed)
    assert (await limiter.peek("a")).remaining == 0


def test_two_processes_together_allow_exactly_the_limit(storage: str, strategy: str) -> None:
    """This holds with hundreds of concurrent requests."""
    command = [sys.executable, "-c", WORKER, storage, strategy, "200"]
    project = Path(__file__).parents[3]
    workers = [
        subprocess.Popen(
            command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"

    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    allowed = [int(worker.communicate(timeout=PATIENCE)[0]) for worker in workers]

    assert sum(allowed) == 100


async def test_charge_corrects_the_cost_of_a_hit(storage: str) -> None:
    """A negative charge is a refund, which never exceeds the usage."""
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)
    await limiter.hit("a", cost=6)

    await limiter.charge("a", -2, since=limiter.clock())
    assert (await limiter.peek("a")).remaining == 6
    await limiter.charge("a", 3)
    assert (await limiter.peek("a")).remaining == 3
    await limiter.charge("a", -100)
    assert (await limiter.peek("a")).remaining == 10


async def test_charge_may_exceed_the_limit(storage: str) -> None:
    """The charge opens a window, in which nothing more is allowed."""
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)

    await limiter.charge("a", 10**30)

    assert await limiter.peek("a") == (False, 10, 0, *[pytest.approx(3600, abs=60)] * 2, *_REST)


async def test_charges_on_memcached_do_not_wrap(memcached: Server) -> None:
    """Counters of Memcached wrap at 2**64, so charges are clipped before."""
    limiter = SharedLimiter(
        "10/hour", storage=f"async+memcached://{memcached.place}", timeout=PATIENCE
    )

    for _ in range(2**11):
        await limiter.charge("a", 2**53)

    assert not (await limiter.peek("a")).allowed


_REST = tuple(Decision._field_defaults.values())


async def test_refund_of_an_earlier_window_is_ignored(storage: str) -> None:
    """A refund applies only to hits in the current window."""
    clock = FakeClock()
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE, clock=clock)
    await limiter.charge("b", -5)
    await limiter.hit("a", cost=6)

    await limiter.charge("a", -2, since=clock() - 60)

    assert (await limiter.peek("a")).remaining == 4
    assert (await limiter.peek("b")).remaining == 10


async def test_charge_of_a_sliding_window_is_rejected() -> None:
    """`supports_refund` is False, and `charge` raises an error."""
    limiter = SharedLimiter(
        "1/minute", storage="async+redis://127.0.0.1:1", strategy="sliding-window-counter"
    )

    assert not limiter.supports_refund
    with pytest.raises(
        ValueError, match=r"strategy must be 'fixed-window' to use charge\(\) .* got 'sliding-"
    ):
        await limiter.charge("a", 1)


async def test_request_after_retry_after_is_allowed(redis: Server, clock: FakeClock) -> None:
    """Before the end of the fixed window, requests are rejected."""
    limiter = SharedLimiter("2/minute", storage=url(redis), timeout=PATIENCE, clock=clock)
    await limiter.hit("a", cost=2)
    rejected = await limiter.hit("a")

    clock.advance(rejected.retry_after - 30)
    await age_counters(redis, rejected.retry_after - 30)
    assert not (await limiter.hit("a")).allowed
    clock.advance(30)
    await age_counters(redis, 30)
    assert await limiter.hit("a") == Decision(True, 2, 1, 60.0, 0.0)


@pytest.mark.parametrize("cost", [1, 3, 10])
@pytest.mark.parametrize(("before", "now"), [(10, 0), (7, 3), (2, 8), (0, 10)])
async def test_request_after_retry_after_is_allowed_in_a_sliding_window(
    redis: Server, before: int, now: int, cost: int
) -> None:
    """The wait is exact for any usage of the two windows."""
    limiter = on(redis, "10/hour", "sliding-window-counter")
    await limiter.hit("a", cost=before)
    await age_counters(redis, 3600 + 1)  # the usage is now in the previous window
    await limiter.hit("a", cost=0)
    await age_counters(redis, 900)
    while now and (await limiter.hit("a")).allowed:
        now -= 1
    rejected = await limiter.peek("a", cost=cost)

    if rejected.retry_after > 30:
        await age_counters(redis, rejected.retry_after - 30)
        assert not (await limiter.peek("a", cost=cost)).allowed
        await age_counters(redis, 30)
    assert (await limiter.hit("a", cost=cost)).allowed


async def test_counter_without_expiry_is_replaced(redis: Server) -> None:
    """An interrupted write must not limit a key forever."""
    limiter = on(redis, "1/minute")
    await limiter.hit("a")
    async with direct_client(redis) as client:
        (name,) = await client.keys("*")
        await client.persist(name)

    assert (await limiter.peek("a")).allowed
    assert await limiter.hit("a") == Decision(True, 1, 0, 60.0, 0.0)
    assert not (await limiter.hit("a")).allowed


async def test_every_counter_expires(redis: Server, strategy: str) -> None:
    """The storage does not grow with the number of past clients."""
    limiter = on(redis, "1/minute", strategy)
    await limiter.hit("a")
    await limiter.hit("b", cost=0)
    await limiter.peek("c")
    if limiter.supports_refund:
        await limiter.charge("d", 5)
        await limiter.charge("e", -5)

    async with direct_client(redis) as client:
        names = await client.keys("*")
        ends = [await client.pttl(name) for name in names]

    assert len(names) == (3 if limiter.supports_refund else 1)
    assert all(0 < end <= 120_000 for end in ends)


async def test_storage_contains_no_secrets(redis: Server, strategy: str) -> None:
    """The name of a counter contains a short hash of the key."""
    limiter = on(redis, "1/minute", strategy)

    await limiter.hit("sk-secret" * 1000)

    async with direct_client(redis) as client:
        (name,) = await client.keys("*")
    assert "secret" not in name
    assert len(name) < 100


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
async def test_invalid_cost_or_amount_is_rejected(cost: int) -> None:
    """Arguments are checked before the storage is used."""
    limiter = SharedLimiter("1/minute", storage="async+redis://127.0.0.1:1")

    for method in (limiter.hit, limiter.peek):
        with pytest.raises(ValueError, match=f"cost must be .* at least 0, got {cost!r}"):
            await method("a", cost=cost)
    with pytest.raises(ValueError, match="amount must be an integer, got '1'"):
        await limiter.charge("a", "1")  # type: ignore[arg-type]


async def test_key_of_unsupported_type_is_rejected() -> None:
    """The key is checked before the storage is used."""
    limiter = SharedLimiter("1/minute", storage="async+redis://127.0.0.1:1")

    with pytest.raises(ValueError, match="key of a shared limiter must be"):
        await limiter.hit(object())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": "often"}, "limit must be one rate such as .* got 'often'"),
        ({"limit": f"{2**53 + 1}/day"}, "limit must allow at most 281474976710655 per window"),
        ({"strategy": "gcra"}, "strategy must be one of fixed-window, sliding.*, got 'gcra'"),
        ({"on_error": "panic"}, "on_error must be one of local, allow, deny, got 'panic'"),
        ({"prefix": "my app"}, "prefix must be 1 to 64 letters, digits, .* got 'my app'"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, got 0"),
        ({"timeout": math.inf}, "timeout must be a number of seconds above 0, got inf"),
        ({"timeout": "1"}, "timeout must be a number of seconds above 0, got '1'"),
    ],
)
async def test_malformed_argument_is_rejected(arguments: dict[str, str], message: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    settings: dict[str, str] = {"limit": "1/minute", "storage": "async+redis://127.0.0.1:1"}

    with pytest.raises(ValueError, match=message):
        SharedLimiter(**{**settings, **arguments})  # type: ignore[arg-type]


def test_limiter_works_in_successive_event_loops(storage: str, strategy: str) -> None:
    """Every event loop has its own connections, which are closed with it."""
    limiter = SharedLimiter("10/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    for expected in (9, 8):
        decision = asyncio.run(limiter.hit("a"))
        assert (decision.remaining, decision.degraded) == (expected, False)


async def test_concurrent_requests_share_connections(redis: Server, strategy: str) -> None:
    """An initial burst of requests does not open a connection per request."""
    limiter = on(redis, "10/hour", strategy)

    await asyncio.gather(*[limiter.hit("a") for _ in range(100)])

    async with direct_client(redis) as client:
        assert len(await client.client_list()) < 10


async def test_closed_limiter_reconnects(redis: Server, strategy: str) -> None:
    """After `aclose`, the next request opens new connections."""
    limiter = on(redis, "10/hour", strategy)
    await limiter.hit("a")

    await limiter.aclose()
    await limiter.aclose()

    assert (await limiter.hit("a")).remaining == 8


parts = st.none() | st.integers() | st.text() | st.binary()
keys = st.recursive(parts, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def test_hash_of_a_key_is_stable() -> None:
    """The hash is the same in all processes and versions."""
    assert hash_key((b"\xc0\x00\x02\x01", "tenant", 7, None)) == "87dd0d1cb9e8c95cabe5807ae48a49fd"


@given(first=keys, second=keys)
def test_hashes_are_equal_only_for_equal_keys(first: object, second: object) -> None:
    """This holds for keys of all supported types and any nesting."""
    assert (hash_key(first) == hash_key(second)) == (first == second)


def test_similar_keys_have_different_hashes() -> None:
    """Type, boundaries and nesting are part of the hash, and any string is valid."""
    keys = [b"a", "a", ("a",), ("a", "b/c"), ("a/b", "c"), ("ab", ""), (("a", "b"), "c"), "\ud800"]

    assert len({hash_key(key) for key in keys}) == len(keys)


def test_hash_is_short_and_contains_no_secret() -> None:
    """The hash of a long secret key has 32 characters."""
    text = hash_key("sk-secret" * 10_000)

    assert len(text) == 32
    assert "secret" not in text


@pytest.mark.parametrize("key", [1.5, frozenset({"a"}), object(), ("a", 1.5)])
def test_hash_of_unsupported_type_is_rejected(key: object) -> None:
    """The error lists the supported types."""
    with pytest.raises(ValueError, match="must be bytes, str, int, None or a tuple of these, got"):
        hash_key(key)


def test_nested_start_closes_only_the_connections_of_its_event_loop(
    redis: Server, metrics: HttpMetrics
) -> None:
    """The running application keeps its own; a reset does not change the storage."""
    limiter = SharedLimiter("2/minute", storage=url(redis), timeout=PATIENCE)
    pulse = TokenPulse(settings=Settings(), policies=[Policy(limiter)], metrics=metrics)
    app = pulse.wrap(answering())

    with TestClient(app) as first:
        assert first.get("/").status_code == 200
        with TestClient(app) as second:
            assert second.get("/").status_code == 200
        pulse.reset()
        assert first.get("/").status_code == 429
        assert len(limiter._client._pool._open) == 1
    assert not limiter._client._pool._open


async def test_cleared_limiter_has_no_local_usage() -> None:
    """A clear removes the usage of this process, and its clock is that of the local decisions."""
    clock = FakeClock()
    limiter = SharedLimiter("1/minute", storage="async+redis://127.0.0.1:1", clock=clock)

    assert (await limiter.hit("a")).allowed
    assert not (await limiter.hit("a")).allowed
    limiter.clear()
    assert (await limiter.hit("a")).allowed

    limiter.clock = later = FakeClock(clock() + 60)
    assert limiter.clock is later
    assert (await limiter.hit("a")).allowed
