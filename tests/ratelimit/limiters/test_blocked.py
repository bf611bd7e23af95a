"""Limits of 0, and limits that change at run time."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw import Limiter, PlanLimiter, Policy, SharedLimiter
from tokenpulse_mw.ratelimit.limiters.blocked import BLOCKED_RETRY_SECONDS

from ...support.clock import FakeClock

STRATEGIES = ("fixed-window", "sliding-window-counter", "gcra")


@pytest.mark.parametrize(
    ("rate", "strategy"),
    [*(("0/day", strategy) for strategy in STRATEGIES), ("0 USD/day", "fixed-window")],
)
def test_limit_of_0_rejects_every_request(clock: FakeClock, rate: str, strategy: str) -> None:
    """Without a known end, clients are asked to retry after a minute; what is free passes."""
    limiter = Limiter(rate, strategy=strategy, clock=clock)

    decision = limiter.hit("ada")
    assert (decision.allowed, decision.limit, decision.remaining) == (False, 0, 0)
    assert decision.retry_after == decision.reset_after == BLOCKED_RETRY_SECONDS
    assert not limiter.peek("ada").allowed
    assert not limiter.has_room("ada", 1)
    assert limiter.hit("ada", 0).allowed


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_block_ends_at_its_time_and_keeps_the_counts(clock: FakeClock, strategy: str) -> None:
    """`Retry-After` is the rest of the block; then the limit before counts on."""
    limiter = Limiter("5/hour", strategy=strategy, clock=clock)
    limiter.hit("ada", 4)

    limiter.set_limit("0", seconds=10)
    clock.advance(4)
    assert (limiter.hit("ada").retry_after, limiter.limit) == (6, 0)
    clock.advance(6)
    assert limiter.peek("ada").allowed
    assert limiter.hit("ada").allowed
    assert not limiter.hit("ada").allowed
    assert str(limiter.rate) == "5 per hour"


def test_limit_after_a_block_needs_no_request(clock: FakeClock) -> None:
    """The rate is that of before as soon as the block has ended."""
    limiter = Limiter("5/hour", clock=clock)
    limiter.set_limit("0", seconds=10)
    assert str(limiter.rate) == "0 per hour"

    clock.advance(10)

    assert str(limiter.rate) == "5 per hour"


def test_block_that_ends_during_a_hit_lets_it_pass(clock: FakeClock) -> None:
    """The first request after the block is counted at once."""
    limiter = Limiter("1/hour", clock=clock)
    limiter.set_limit("0/minute", seconds=10)
    clock.advance(10)

    assert [limiter.hit("ada").allowed for _ in range(2)] == [True, False]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_changed_limit_keeps_counts_and_the_end_of_the_window(
    clock: FakeClock, strategy: str
) -> None:
    """A higher limit adds room, a lower one removes it, and a block ends with it."""
    limiter = Limiter("4/hour", strategy=strategy, clock=clock)
    assert sum(limiter.hit("ada").allowed for _ in range(9)) == 4
    ends = limiter.peek("ada").reset_after

    limiter.set_limit("6/hour")
    assert sum(limiter.hit("ada").allowed for _ in range(9)) == 2
    limiter.set_limit("0")
    limiter.set_limit("3/hour")
    assert not limiter.hit("ada").allowed
    if strategy == "fixed-window":
        assert limiter.peek("ada").reset_after == ends
        clock.advance(3600)
        assert sum(limiter.hit("ada").allowed for _ in range(9)) == 3


@given(
    st.sampled_from(["fixed-window", "gcra"]),
    st.lists(
        st.one_of(
            st.tuples(st.just("hit"), st.integers(1, 4)),
            st.tuples(st.just("limit"), st.integers(0, 8)),
            st.tuples(st.just("wait"), st.integers(0, 40)),
        ),
        max_size=60,
    ),
)
def test_changes_never_let_through_more_than_the_largest_limit(
    strategy: str, actions: list[tuple[str, int]]
) -> None:
    """In a window, or in a bucket that drains at the largest rate, is at most the largest limit."""
    clock = FakeClock(0.0)
    limiter = Limiter("4/minute", strategy=strategy, clock=clock)
    largest = max([4, *(value for action, value in actions if action == "limit")])
    level, drained_at, counted_until, used = 0.0, 0.0, 0.0, 0
    for action, value in actions:
        if action == "limit":
            limiter.set_limit(f"{value}/minute")
        elif action == "wait":
            clock.advance(value)
        elif limiter.hit("ada", value).allowed:
            if clock.now >= counted_until:
                counted_until, used = clock.now + 60, 0
            used += value
            level = max(level - (clock.now - drained_at) * largest / 60, 0.0) + value
            drained_at = clock.now
            assert strategy == "gcra" or used <= largest
            assert strategy == "fixed-window" or level <= largest + 1e-3


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("hit"), st.integers(1, 4)),
            st.tuples(st.just("refund"), st.integers(0, 2)),
            st.tuples(st.just("window"), st.sampled_from([30, 60, 300])),
            st.tuples(st.just("wait"), st.integers(1, 90)),
        ),
        min_size=4,
        max_size=60,
    )
)
@example([("hit", 3), ("wait", 61), ("hit", 4), ("window", 300), ("refund", 0)])
def test_refunds_after_a_change_of_the_window_never_exceed_its_hits(
    actions: list[tuple[str, int]],
) -> None:
    """A hit of an earlier window gives nothing back to a later one, whichever window it had."""
    clock = FakeClock(0.0)
    limiter = Limiter("10 per 60 seconds", clock=clock)
    hits: list[tuple[float, float, int]] = []  # time, end of its window, cost
    counted: dict[float, int] = {}
    for action, value in actions:
        if action == "wait":
            clock.advance(value)
        elif action == "window":
            limiter.set_limit(f"10 per {value} seconds")
        elif action == "hit":
            decision = limiter.hit("ada", value)
            ends = round(clock.now + decision.reset_after, 3)
            if decision.allowed:
                hits.append((clock.now, ends, value))
                counted[ends] = counted.get(ends, 0) + value
        elif value < len(hits):
            since, ends, cost = hits.pop(value)
            limiter.charge("ada", -cost, since=since)
            counted[ends] -= cost
        decision = limiter.peek("ada", 0)
        ends = round(clock.now + decision.reset_after, 3)
        assert 10 - decision.remaining >= counted.get(ends, 0)


@pytest.mark.parametrize(("window", "change"), [("minute", "hour"), ("hour", "minute")])
def test_refund_in_a_window_that_was_open_at_the_change(
    clock: FakeClock, window: str, change: str
) -> None:
    """A window keeps its length, so a hit in it is refunded; later windows are as usual."""
    limiter = Limiter(f"10/{window}", clock=clock)
    limiter.hit("ada", 6)
    since = clock.now
    limiter.set_limit(f"10/{change}")
    clock.advance(1)

    limiter.charge("ada", -6, since=since)
    assert limiter.peek("ada", 0).remaining == 10
    clock.advance(3600)
    limiter.hit("ada", 6)
    since = clock.now
    clock.advance(1)
    limiter.charge("ada", -6, since=since)
    assert limiter.peek("ada", 0).remaining == 10


@pytest.mark.parametrize(
    ("rate", "options", "change", "error"),
    [
        ("5/day", {}, "5 USD/day", "limit must be a number without a currency as before"),
        ("5 USD/day", {}, "5/day", "limit must be an amount in USD as before, got '5/day'"),
        ("5/day", {}, "5/calendar day", "limit must have no calendar window as before, got"),
        ("5/calendar day", {}, "5/calendar week", "limit must be per calendar day as before"),
        ("5/day", {}, "fast", "limit must be one rate"),
        (
            "5/day",
            {"strategy": "sliding-window-counter"},
            "5/hour",
            "limit must keep its window with strategy 'sliding-window-counter', got 3600 s",
        ),
    ],
)
def test_change_of_unit_or_window_is_rejected(
    rate: str, options: Any, change: str, error: str
) -> None:
    """Counts of another unit or another calendar cannot be kept; nothing changes."""
    limiter = Limiter(rate, **options)

    with pytest.raises(ValueError, match=error):
        limiter.set_limit(change)

    assert limiter.limit == Limiter(rate, **options).limit


def test_only_a_block_has_an_end() -> None:
    """`seconds` with a limit above 0 is rejected, and so is an end that is not in the future."""
    limiter = Limiter("5/day")

    with pytest.raises(ValueError, match="seconds must be None unless the limit is 0, got 10"):
        limiter.set_limit("6/day", seconds=10)
    with pytest.raises(ValueError, match=r"seconds must be a number of .* above 0 .* got -1"):
        limiter.set_limit("0", seconds=-1)


def test_table_of_plans_has_a_default(clock: FakeClock) -> None:
    """A key that the table lacks has the default rate, and one with None is not limited."""
    rates = {"acme": "2/minute", "initech": None}
    limiter = PlanLimiter(rates, default="1/minute", clock=clock)

    assert [limiter.hit("acme").allowed for _ in range(3)] == [True, True, False]
    assert [limiter.hit("globex").allowed for _ in range(2)] == [True, False]
    assert not limiter.is_limited("initech")


def test_table_of_plans_without_default_reports_an_unknown_key() -> None:
    """The error lets the caller report the key."""
    with pytest.raises(LookupError, match="must have each key or plan, or a default"):
        PlanLimiter({"acme": "2/minute"}).hit("globex")


def test_table_of_plans_may_be_by_plan(clock: FakeClock) -> None:
    """`plan_of` returns the plan of a key; a new table applies at once and keeps the counts."""
    plans = {"acme": "pro", "globex": "free"}
    limiter = PlanLimiter(
        {"free": "1/minute", "pro": "3/minute"}, plan_of=plans.__getitem__, clock=clock
    )
    assert [sum(limiter.hit(key).allowed for _ in range(5)) for key in plans] == [3, 1]

    limiter.set_rates({"free": "2/minute", "pro": "0/minute"})

    assert [sum(limiter.hit(key).allowed for _ in range(5)) for key in plans] == [0, 1]
    assert limiter.hit("acme").retry_after == BLOCKED_RETRY_SECONDS


def test_window_of_a_plan_with_another_window_is_refunded(clock: FakeClock) -> None:
    """After the window of a plan has changed, a request still pays only what it has used."""
    limiter = PlanLimiter({"acme": "20 USD/day"}, clock=clock)
    limiter.hit("acme", 50_000)
    limiter.set_rates({"acme": "10 USD/hour"})
    clock.advance(3600)

    limiter.hit("acme", 50_000)
    limiter.charge("acme", -49_000, since=clock.now)

    assert limiter.peek("acme", 0).remaining == 10_000_000 - 51_000


def test_table_of_plans_is_copied(clock: FakeClock) -> None:
    """A later change of the mapping changes neither the rates nor those that are restored."""
    rates = {"acme": "5/minute"}
    policy = Policy(PlanLimiter(rates, clock=clock))
    rates["acme"] = "6/minute"

    policy.restore_rate()

    assert policy.local.hit("acme").limit == 5


def test_all_plans_can_be_blocked(clock: FakeClock) -> None:
    """A block of all keys ends at its time, or with new rates."""
    limiter = PlanLimiter({"acme": "5/minute"}, clock=clock)

    limiter.set_limit("0", seconds=10)
    assert limiter.hit("acme").retry_after == 10
    assert not limiter.has_room("acme", 1)
    clock.advance(10)
    assert limiter.hit("acme").allowed
    limiter.set_limit("0")
    assert limiter.hit("acme").retry_after == BLOCKED_RETRY_SECONDS
    limiter.set_rates({"acme": "6/minute"})
    assert limiter.hit("acme").remaining == 4


@pytest.mark.parametrize(
    ("create", "error"),
    [
        (lambda: PlanLimiter({"a": "1/day", "b": "1 USD/day"}), "must all have the same currency"),
        (lambda: PlanLimiter({"a": "1/day", "b": "1/calendar day"}), "the same currency and cal"),
        (lambda: PlanLimiter({"a": "fast"}), "limit must be one rate"),
        (lambda: PlanLimiter({"a": cast(Any, ["5/day"])}), r"limit must be one rate .* got \['5/"),
        (
            lambda: PlanLimiter(cast(Any, 5)),
            "rate_of must be a function .* or a mapping",
        ),
        (lambda: PlanLimiter(str, plan_of=str), "rates must be a mapping of plans to rates, or a"),
        (lambda: PlanLimiter(str, currency="EUR"), "currency must be one of None, USD, got 'EUR'"),
        (lambda: PlanLimiter({"a": "1/day"}).set_limit("2/day"), "limit must be '0' for a limiter"),
        (lambda: PlanLimiter({"a": "1/day"}).set_rates(async_rate), "rates must be not async as"),
    ],
)
def test_invalid_plans_are_rejected(create: Any, error: str) -> None:
    """The error says what plans must have in common."""
    with pytest.raises(ValueError, match=error):
        create()


async def async_rate(key: object) -> str:
    """Return a rate asynchronously."""
    return "1/minute"


def test_function_of_plans_may_return_money() -> None:
    """A rate without the currency of the limiter counts as unknown."""
    rates = {"acme": "2 USD/day", "globex": "2/day"}
    limiter = PlanLimiter(rates.__getitem__, currency="USD")

    assert limiter.hit("acme", 2_000_000).allowed
    with pytest.raises(ValueError, match="got '2 per day' next to '1 USD per second'"):
        limiter.hit("globex")


@pytest.mark.anyio
async def test_shared_limit_changes_in_this_process(clock: FakeClock) -> None:
    """During an outage the fallback has the new limit, and a block needs no storage."""
    limiter = SharedLimiter("2/hour", storage="redis://127.0.0.1:1", clock=clock)
    assert [(await limiter.hit("ada")).allowed for _ in range(3)] == [True, True, False]

    limiter.set_limit("3/hour")
    assert [(await limiter.hit("ada")).allowed for _ in range(2)] == [True, False]
    limiter.set_limit("0", seconds=10)
    assert (await limiter.hit("ada")).retry_after == (await limiter.peek("ada")).retry_after == 10
    assert (str(limiter.rate), limiter.blocked_for()) == ("0 per hour", 10)
    clock.advance(10)
    assert str(limiter.rate) == "3 per hour"
    assert (await limiter.peek("ada")).limit == 3
    limiter.set_limit("0")
    assert (await limiter.hit("ada")).retry_after == BLOCKED_RETRY_SECONDS
    with pytest.raises(ValueError, match="limit must keep its window in a storage, got 86400 s"):
        limiter.set_limit("3/day")
    blocked = SharedLimiter("0/hour", storage="redis://127.0.0.1:1", clock=clock)
    assert not (await blocked.hit("ada")).allowed
    assert math.isfinite((await blocked.hit("ada")).retry_after)
