"""The guarantees P1 to P5 of the limiter over several workers, in floods of any number of keys."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Limiter, ZoneLimiter

from ...support.calls import calls
from ...support.clock import FakeClock

pytestmark = pytest.mark.slow

SIZE = 50
every_strategy = pytest.mark.parametrize("strategy", ["fixed-window", "gcra"])
every_flood = pytest.mark.parametrize("times", [1, 4, 10, 40])


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock at the beginning of a minute."""
    return FakeClock(60_000.0)


def workers(
    folder: Path, clock: FakeClock, strategy: str, *, limit: str = "3/minute", max_keys: int = SIZE
) -> list[ZoneLimiter]:
    """Return the limiters of two workers."""
    return [
        ZoneLimiter(
            limit, path=folder / strategy, max_keys=max_keys, strategy=strategy, clock=clock
        )
        for _ in range(2)
    ]


@every_strategy
@every_flood
def test_p1_table_never_exceeds_its_size(
    strategy: str, times: int, tmp_path: Path, clock: FakeClock
) -> None:
    """P1: The table has twice as many places as `max_keys`, and the file keeps its size."""
    limiters = workers(tmp_path, clock, strategy)
    size = (tmp_path / strategy).stat().st_size

    for client, limiter in zip(range(times * SIZE), cycle(limiters)):
        limiter.hit(client)

    assert len(limiters[0]) <= 2 * SIZE + 8
    assert (tmp_path / strategy).stat().st_size == size <= 4096 + 1152 * SIZE


@every_strategy
@every_flood
@pytest.mark.parametrize("flood_cost", [1, 3], ids=["flood-allowed", "flood-limited"])
@pytest.mark.parametrize("retries", [True, False], ids=["active", "silent"])
def test_p2_limited_key_stays_limited_in_a_flood(
    strategy: str, times: int, flood_cost: int, retries: bool, tmp_path: Path, clock: FakeClock
) -> None:
    """P2: A key is limited until its wait ends, whether it retries or not, at any worker."""
    first, second = workers(tmp_path, clock, strategy)
    first.hit("attacker", 3)
    wait = first.hit("attacker").retry_after

    for client, limiter in zip(range(times * SIZE), cycle([first, second])):
        limiter.hit(client, flood_cost)
        clock.advance(0.999 * wait / (times * SIZE))
        if retries:
            assert not limiter.hit("attacker").allowed

    assert not second.hit("attacker").allowed
    assert not first.hit("attacker").allowed


@every_strategy
@every_flood
def test_p3_rotating_addresses_do_not_exceed_their_limits(
    strategy: str, times: int, tmp_path: Path, clock: FakeClock
) -> None:
    """P3: k addresses that take turns get at most k times the limit in a window."""
    limiters = cycle(workers(tmp_path, clock, strategy))
    seconds = 59.9 if strategy == "fixed-window" else 19.9  # before a request has drained
    addresses = range(times * SIZE)
    allowed: Counter[int] = Counter()

    for _ in range(4):
        for address in addresses:
            allowed[address] += next(limiters).hit(address).allowed
            clock.advance(seconds / 4 / len(addresses))

    assert allowed.most_common(1)[0][1] <= 3


@given(traffic=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.floats(0, 9))))
def test_p3_full_table_allows_no_more_than_a_large_table(
    traffic: list[tuple[int, int, float]],
) -> None:
    """P3: A request that a table of one set allows is allowed by a table without evictions."""
    clock = FakeClock()
    large = Limiter("3/minute", strategy="gcra", clock=clock)
    with tempfile.TemporaryDirectory() as folder:
        small = cycle(workers(Path(folder), clock, "gcra", max_keys=1))
        for client, cost, pause in traffic:
            clock.advance(pause)
            if next(small).hit(client, cost).allowed:
                assert large.hit(client, cost).allowed


@every_strategy
@pytest.mark.parametrize("size", [100, 10_000])
def test_p4_work_of_a_request_does_not_grow_with_the_table(
    strategy: str, size: int, tmp_path: Path, clock: FakeClock
) -> None:
    """P4: This holds in a growing table, in a full table, and when all entries expire at once."""
    limiter, _ = workers(tmp_path, clock, strategy, max_keys=size)

    for clients in (range(2 * size), range(2 * size, 3 * size)):
        for client in clients:
            limiter.hit(client, 3)
            clock.advance(1e-6)
        counts = [calls(partial(limiter.hit, client, 3)) for client in clients[:50]]
        clock.advance(120)
        counts += [calls(partial(limiter.hit, -client, 3)) for client in clients[:50]]
        assert 0 < max(counts) <= 80


@every_strategy
@pytest.mark.parametrize(("times", "most"), [(4, 3), (10, 10), (40, 1000)])
def test_p5_new_keys_get_their_limit_in_a_flood(
    strategy: str, times: int, most: int, tmp_path: Path, clock: FakeClock
) -> None:
    """P5: After a flood of limited keys, few of 2,000 new keys get less than half their limit.

    The expected numbers are 0.04, 1.2 and 450. A new key gets less if several keys have written
    each of its four cells, which depends on the number of keys in its set.
    """
    limiters = workers(tmp_path, clock, strategy, limit="4/minute", max_keys=200)
    rng = random.Random()
    for _, limiter in zip(range(times * 200), cycle(limiters)):
        client = rng.getrandbits(60)
        limiter.hit(client, 4)
        limiter.hit(client)
        clock.advance(20 / (times * 200))

    short = sum(not limiters[0].peek(rng.getrandbits(60), 2).allowed for _ in range(2000))

    assert short <= most
    assert limiters[0].evictions + limiters[1].evictions > 0
