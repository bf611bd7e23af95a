"""The limiter of several processes, on real servers."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import coredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Decision
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter, hash_key

from ...support.clock import FakeClock
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import url

pytestmark = pytest.mark.anyio


# Hits one key often and at once, when it is told to; prints how often it was allowed.
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
    """A limiter on a Redis."""
    return SharedLimiter(limit, storage=url(server), strategy=strategy, timeout=PATIENCE)


@asynccontextmanager
async def inside(server: Server) -> AsyncIterator[coredis.Redis[str]]:
    """Look at a Redis past the limiter."""
    client = coredis.Redis(port=server.port, decode_responses=True)
    try:
        yield client
    finally:
        client.connection_pool.disconnect()


async def let_pass(server: Server, seconds: float) -> None:
    """Make all that a Redis holds older."""
    async with inside(server) as client:
        for key in await client.keys("*"):
            await client.pexpire(key, await client.pttl(key) - math.ceil(seconds * 1000))


async def test_a_client_may_use_its_limit_and_no_more(storage: str, strategy: str) -> None:
    """The request after the last that is allowed is told how long to wait."""
    limiter = SharedLimiter("3/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    decisions = [await limiter.hit("a") for _ in range(4)]

    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0]
    assert [decision.limit for decision in decisions] == [3, 3, 3, 3]
    assert [decision.retry_after for decision in decisions[:3]] == [0.0, 0.0, 0.0]
    assert 0 < decisions[3].retry_after <= 2 * 3600
    assert not any(decision.degraded for decision in decisions)


async def test_a_fixed_window_tells_when_it_ends(storage: str) -> None:
    """The seconds are those of the storage, and at most a window."""
    limiter = SharedLimiter("1/minute", storage=storage, timeout=PATIENCE)

    first, second = await limiter.hit("a"), await limiter.hit("a")

    assert first == Decision(True, 1, 0, 60.0, 0.0)
    assert 50 < second.reset_after <= 60
    assert second.retry_after == second.reset_after


async def test_clients_do_not_share(storage: str, strategy: str) -> None:
    """Keys that look alike are counted apart."""
    limiter = SharedLimiter("1/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    for key in ["a", b"a", ("a", "b/c"), ("a/b", "c"), 7, None]:
        assert (await limiter.hit(key)).allowed
        assert not (await limiter.hit(key)).allowed


async def test_limiters_share_what_they_limit_alike(storage: str, strategy: str) -> None:
    """The same limit is one limit, wherever it is made; others, and other ways, are apart."""
    here, there = (
        SharedLimiter("1/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
        for _ in range(2)
    )
    other = SharedLimiter("2/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
    strategies = {"fixed-window", "sliding-window-counter"} - {strategy}
    otherwise = SharedLimiter(
        "1/hour", storage=storage, strategy=strategies.pop(), timeout=PATIENCE
    )

    assert (await here.hit("a")).allowed
    assert not (await there.hit("a")).allowed
    assert (await other.hit("a")).remaining == 1
    assert (await otherwise.hit("a")).allowed


async def test_applications_can_share_a_storage_and_count_apart(
    storage: str, strategy: str
) -> None:
    """Each has a prefix of its own."""
    one, other = (
        SharedLimiter("1/hour", storage=storage, strategy=strategy, prefix=prefix, timeout=PATIENCE)
        for prefix in ("chat", "images")
    )

    assert (await one.hit("a")).allowed
    assert (await other.hit("a")).allowed
    assert not (await one.hit("a")).allowed


async def test_a_request_that_is_not_allowed_costs_nothing(storage: str, strategy: str) -> None:
    """After a refusal of much, little is still allowed."""
    limiter = SharedLimiter("10/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
    await limiter.hit("a", cost=4)

    refused = await limiter.hit("a", cost=7)

    assert (refused.allowed, refused.remaining) == (False, 6)
    assert (await limiter.hit("a", cost=6)).allowed


async def test_what_never_fits_need_not_be_waited_for(storage: str, strategy: str) -> None:
    """A request that costs more than the limit is told so, and consumes nothing."""
    limiter = SharedLimiter("10/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    refused = await limiter.hit("a", cost=11)

    assert (refused.allowed, refused.remaining, refused.retry_after) == (False, 10, math.inf)
    assert (await limiter.hit("a", cost=10)).allowed


async def test_peeking_counts_nothing(storage: str, strategy: str) -> None:
    """It tells what would be decided."""
    limiter = SharedLimiter("2/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    fresh = await limiter.peek("a", cost=2)
    await limiter.hit("a")
    used = await limiter.peek("a", cost=2)

    assert (fresh.allowed, fresh.remaining, fresh.retry_after) == (True, 2, 0.0)
    assert (used.allowed, used.remaining) == (False, 1)
    assert used.retry_after > 0
    assert (await limiter.hit("a")).allowed


async def test_a_key_can_be_reset(storage: str, strategy: str) -> None:
    """Whoever was limited starts anew."""
    limiter = SharedLimiter("1/hour", storage=storage, strategy=strategy, timeout=PATIENCE)
    await limiter.hit("a")

    await limiter.reset("a")

    assert (await limiter.hit("a")).allowed


async def test_requests_at_once_are_counted_exactly(storage: str, strategy: str) -> None:
    """However they come between each other, just the limit is allowed."""
    limiter = SharedLimiter("5/day", storage=storage, strategy=strategy, timeout=PATIENCE)

    decisions = await asyncio.gather(*[limiter.hit("a") for _ in range(50)])

    assert sum(decision.allowed for decision in decisions) == 5
    assert all(decision.retry_after > 0 for decision in decisions if not decision.allowed)
    assert (await limiter.peek("a")).remaining == 0


def test_two_processes_allow_the_limit_together(storage: str, strategy: str) -> None:
    """Neither more nor less, with hundreds of requests at the same time."""
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


async def test_what_was_not_used_is_given_back(storage: str) -> None:
    """A charge adds what a hit has cost more, or takes what it has cost less, but never all."""
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)
    await limiter.hit("a", cost=6)

    await limiter.charge("a", -2, since=limiter.clock())
    assert (await limiter.peek("a")).remaining == 6
    await limiter.charge("a", 3)
    assert (await limiter.peek("a")).remaining == 3
    await limiter.charge("a", -100)
    assert (await limiter.peek("a")).remaining == 10


async def test_a_charge_may_exceed_the_limit(storage: str) -> None:
    """What was used was used: nothing is allowed until the window ends, which it opens."""
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE)

    await limiter.charge("a", 10**30)

    assert await limiter.peek("a") == (False, 10, 0, *[pytest.approx(3600, abs=60)] * 2, *_REST)


async def test_charges_of_memcached_do_not_wrap_around(memcached: Server) -> None:
    """Its counters begin again at 0 after 2**64; what a key has used must not."""
    limiter = SharedLimiter(
        "10/hour", storage=f"async+memcached://{memcached.place}", timeout=PATIENCE
    )

    for _ in range(2**11):
        await limiter.charge("a", 2**53)

    assert not (await limiter.peek("a")).allowed


_REST = ("default", (), False, None)


async def test_nothing_is_given_back_to_a_later_window(storage: str) -> None:
    """What was taken before the window began is forgotten already, as is what nobody took."""
    clock = FakeClock()
    limiter = SharedLimiter("10/hour", storage=storage, timeout=PATIENCE, clock=clock)
    await limiter.charge("b", -5)
    await limiter.hit("a", cost=6)

    await limiter.charge("a", -2, since=clock() - 60)

    assert (await limiter.peek("a")).remaining == 4
    assert (await limiter.peek("b")).remaining == 10


async def test_a_sliding_window_cannot_be_charged() -> None:
    """The limiter says so beforehand, and when it is tried."""
    limiter = SharedLimiter(
        "1/minute", storage="async+redis://127.0.0.1:1", strategy="sliding-window-counter"
    )

    assert not limiter.supports_refund
    with pytest.raises(
        ValueError, match=r"does not support charge\(\) in a storage: use 'fixed-win"
    ):
        await limiter.charge("a", 1)


async def test_a_fixed_window_ends(redis: Server) -> None:
    """Whoever waits as long as it is told is let in, and no earlier."""
    limiter = on(redis, "2/minute")
    await limiter.hit("a", cost=2)
    refused = await limiter.hit("a")

    await let_pass(redis, refused.retry_after - 30)
    assert not (await limiter.hit("a")).allowed
    await let_pass(redis, 30)
    assert await limiter.hit("a") == Decision(True, 2, 1, 60.0, 0.0)


@pytest.mark.parametrize("cost", [1, 3, 10])
@pytest.mark.parametrize(("before", "now"), [(10, 0), (7, 3), (2, 8), (0, 10)])
async def test_a_sliding_window_fades(redis: Server, before: int, now: int, cost: int) -> None:
    """Whoever waits as long as it is told is let in, whichever of the two windows is in the way."""
    limiter = on(redis, "10/hour", "sliding-window-counter")
    await limiter.hit("a", cost=before)
    await let_pass(redis, 3600 + 1)  # all that was used is now in the window before
    await limiter.hit("a", cost=0)
    await let_pass(redis, 900)
    while now and (await limiter.hit("a")).allowed:
        now -= 1
    refused = await limiter.peek("a", cost=cost)

    if refused.retry_after > 30:
        await let_pass(redis, refused.retry_after - 30)
        assert not (await limiter.peek("a", cost=cost)).allowed
        await let_pass(redis, 30)
    assert (await limiter.hit("a", cost=cost)).allowed


async def test_a_counter_that_never_ends_is_begun_anew(redis: Server) -> None:
    """Nobody is limited for ever because some process broke off at the wrong moment."""
    limiter = on(redis, "1/minute")
    await limiter.hit("a")
    async with inside(redis) as client:
        (name,) = await client.keys("*")
        await client.persist(name)

    assert (await limiter.peek("a")).allowed
    assert await limiter.hit("a") == Decision(True, 1, 0, 60.0, 0.0)
    assert not (await limiter.hit("a")).allowed


async def test_every_counter_ends(redis: Server, strategy: str) -> None:
    """Whatever is counted, the storage forgets it: it does not grow with the clients seen."""
    limiter = on(redis, "1/minute", strategy)
    await limiter.hit("a")
    await limiter.hit("b", cost=0)
    await limiter.peek("c")
    if limiter.supports_refund:
        await limiter.charge("d", 5)
        await limiter.charge("e", -5)

    async with inside(redis) as client:
        names = await client.keys("*")
        ends = [await client.pttl(name) for name in names]

    assert len(names) == (3 if limiter.supports_refund else 1)
    assert all(0 < end <= 120_000 for end in ends)


async def test_secrets_are_not_in_the_storage(redis: Server, strategy: str) -> None:
    """A key is stored under a short hash of it."""
    limiter = on(redis, "1/minute", strategy)

    await limiter.hit("sk-secret" * 1000)

    async with inside(redis) as client:
        (name,) = await client.keys("*")
    assert "secret" not in name
    assert len(name) < 100


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
async def test_what_is_no_cost_is_refused(cost: int) -> None:
    """Before the storage is asked."""
    limiter = SharedLimiter("1/minute", storage="async+redis://127.0.0.1:1")

    for ask in (limiter.hit, limiter.peek):
        with pytest.raises(ValueError, match="cost must be a whole number of at least 0, got"):
            await ask("a", cost=cost)
    with pytest.raises(ValueError, match="amount must be a whole number, got"):
        await limiter.charge("a", "1")  # type: ignore[arg-type]


async def test_what_is_no_key_is_refused() -> None:
    """Also where the storage is not asked."""
    limiter = SharedLimiter("1/minute", storage="async+redis://127.0.0.1:1")

    with pytest.raises(ValueError, match="a shared key must be"):
        await limiter.hit(object())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": "often"}, "is not a rate"),
        ({"limit": f"{2**53 + 1}/day"}, "is too large: expected at most 281474976710655"),
        ({"strategy": "gcra"}, "strategy 'gcra' is not known: expected one of .'fixed-window', 's"),
        ({"on_error": "panic"}, "on_error 'panic' is not known: expected one of .'local', 'allow'"),
        ({"prefix": "my app"}, "prefix 'my app' must be 1 to 64 letters, digits, "),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, got 0"),
        ({"timeout": math.inf}, "timeout must be a number of seconds above 0, got inf"),
        ({"timeout": "1"}, "timeout must be a number of seconds above 0, got '1'"),
    ],
)
async def test_malformed_settings_are_refused(arguments: dict[str, str], message: str) -> None:
    """The error says what came and what is expected."""
    settings: dict[str, str] = {"limit": "1/minute", "storage": "async+redis://127.0.0.1:1"}

    with pytest.raises(ValueError, match=message):
        SharedLimiter(**{**settings, **arguments})  # type: ignore[arg-type]


def test_a_limiter_works_in_one_event_loop_after_another(storage: str, strategy: str) -> None:
    """Each has connections of its own, which are closed when it ends."""
    limiter = SharedLimiter("10/hour", storage=storage, strategy=strategy, timeout=PATIENCE)

    for expected in (9, 8):
        decision = asyncio.run(limiter.hit("a"))
        assert (decision.remaining, decision.degraded) == (expected, False)


async def test_requests_at_once_share_a_connection(redis: Server, strategy: str) -> None:
    """Also the very first ones: a burst of them is no burst of connections."""
    limiter = on(redis, "10/hour", strategy)

    await asyncio.gather(*[limiter.hit("a") for _ in range(100)])

    async with inside(redis) as client:
        assert len(await client.client_list()) < 10


async def test_connections_can_be_closed(redis: Server, strategy: str) -> None:
    """The next request opens new ones."""
    limiter = on(redis, "10/hour", strategy)
    await limiter.hit("a")

    await limiter.aclose()
    await limiter.aclose()

    assert (await limiter.hit("a")).remaining == 8


parts = st.none() | st.integers() | st.text() | st.binary()


keys = st.recursive(parts, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def test_every_process_writes_a_key_alike() -> None:
    """The text depends on the key alone, in this version and in those to come."""
    assert hash_key((b"\xc0\x00\x02\x01", "tenant", 7, None)) == "87dd0d1cb9e8c95cabe5807ae48a49fd"


@given(first=keys, second=keys)
def test_keys_share_a_text_only_if_they_are_equal(first: object, second: object) -> None:
    """Whatever they are made of, and however they are nested."""
    assert (hash_key(first) == hash_key(second)) == (first == second)


def test_nothing_is_ambiguous() -> None:
    """Kinds, borders and nesting all count; any text can be written."""
    alike = [b"a", "a", ("a",), ("a", "b/c"), ("a/b", "c"), ("ab", ""), (("a", "b"), "c"), "\ud800"]

    assert len({hash_key(key) for key in alike}) == len(alike)


def test_a_text_is_short_and_gives_nothing_away() -> None:
    """However long the key is, and whatever secret is in it."""
    text = hash_key("sk-secret" * 10_000)

    assert len(text) == 32
    assert "secret" not in text


@pytest.mark.parametrize("key", [1.5, frozenset({"a"}), object(), ("a", 1.5)])
def test_what_others_would_not_write_alike_is_refused(key: object) -> None:
    """The error says which kinds of keys can be shared."""
    with pytest.raises(ValueError, match="must be bytes, str, int, None or a tuple of these, got"):
        hash_key(key)
