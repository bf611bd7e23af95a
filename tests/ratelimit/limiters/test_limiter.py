"""The table of the limiter: entries, eviction, expiry and resets."""

from __future__ import annotations

import inspect
import time

import pytest

from tokenpulse_mw import Limiter
from tokenpulse_mw.ratelimit.limiters import limiter as limiter_module
from tokenpulse_mw.ratelimit.limiters.strategy import STRATEGIES

from ...support.clock import FakeClock

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def test_keys_are_limited_separately(clock: FakeClock) -> None:
    """A key may be any hashable value."""
    limiter = Limiter("1/minute", clock=clock)

    keys = ["a", b"a", ("a", 1), 7, None]

    assert all(limiter.hit(key).allowed for key in keys)
    assert not any(limiter.hit(key).allowed for key in keys)


def test_fixed_window_is_the_default_strategy(clock: FakeClock) -> None:
    """A limiter without a strategy decides as one with fixed windows."""
    limiter, fixed = (
        Limiter("2/minute", clock=clock),
        Limiter("2/minute", strategy="fixed-window", clock=clock),
    )

    for pause in (0, 30, 20, 10):
        clock.advance(pause)
        assert limiter.hit("a") == fixed.hit("a")


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
def test_invalid_cost_is_rejected(cost: int) -> None:
    """A cost is an integer of at least 0."""
    limiter = Limiter("1/minute")

    for method in (limiter.hit, limiter.peek):
        with pytest.raises(ValueError, match=f"cost must be .* at least 0, got {cost!r}"):
            method("a", cost=cost)


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", None, True, 10**9])
def test_invalid_table_size_is_rejected(size: int) -> None:
    """The size of the table is an integer from 1 to 10,000,000."""
    with pytest.raises(ValueError, match=f"max_keys must be .* from 1 to 10000000, got {size!r}"):
        Limiter("1/minute", max_keys=size)


@every_strategy
def test_peek_adds_no_entry(strategy: str, clock: FakeClock) -> None:
    """Only counted keys are in the table."""
    limiter = Limiter("1/minute", strategy=strategy, clock=clock)

    assert limiter.peek("a").allowed
    assert len(limiter) == 0


@every_strategy
def test_reset_removes_usage_from_table_and_sketch(strategy: str, clock: FakeClock) -> None:
    """A limited key is allowed after a reset, even if it was evicted."""
    limiter = Limiter("1/minute", max_keys=1, strategy=strategy, clock=clock)
    limiter.hit("a")
    limiter.reset("a")
    assert limiter.hit("a").allowed

    limiter.hit("b")
    assert not limiter.peek("a").allowed
    limiter.reset("a")
    assert limiter.hit("a").allowed


@pytest.mark.parametrize(
    ("limit", "strategy"),
    [*(("100/minute", strategy) for strategy in STRATEGIES), ("100/calendar day", "fixed-window")],
)
def test_refund_of_a_hit_before_a_reset_is_ignored(limit: str, strategy: str) -> None:
    """The hit was removed already, so the refund would remove the usage of another one."""
    clock = FakeClock(1_800_000_000.0)
    limiter = Limiter(limit, strategy=strategy, clock=clock, wall_clock=clock)
    times = []
    for _ in range(2):
        limiter.hit("a", 40)
        times.append(limiter.clock())
        clock.advance(0.001)
        if len(times) == 1:
            limiter.reset("a")

    limiter.charge("a", -30, since=times[0])
    assert limiter.peek("a", 0).remaining == 60

    limiter.charge("a", -30, since=times[1])
    assert limiter.peek("a", 0).remaining == 90


def test_number_of_stored_resets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest one is removed; `clear` removes all."""
    monkeypatch.setattr(limiter_module, "_MAX_RESETS", 2)
    limiter = Limiter("1/minute")

    for key in ("a", "b", "a", "c"):
        limiter.reset(key)
    assert list(limiter._resets) == ["a", "c"]

    limiter.clear()
    assert limiter._resets == {}


def test_reset_removes_both_sliding_windows() -> None:
    """The current and the previous window of an evicted key are removed."""
    clock = FakeClock(600.0)
    limiter = Limiter("4/minute", max_keys=1, strategy="sliding-window-counter", clock=clock)
    limiter.hit("a", 2)
    clock.advance(60)
    limiter.hit("a", 2)
    limiter.hit("b")

    limiter.reset("a")

    assert limiter.peek("a").remaining == 4


@every_strategy
def test_evicted_key_keeps_its_usage(strategy: str, clock: FakeClock) -> None:
    """The eviction is counted, and the key returns with its usage."""
    limiter = Limiter("3/minute", max_keys=2, strategy=strategy, clock=clock)
    limiter.hit("a", 2)
    before = limiter.peek("a")

    limiter.hit("b")
    assert limiter.evictions == 0
    limiter.hit("c")

    assert (len(limiter), limiter.evictions) == (2, 1)
    after = limiter.peek("a")
    assert after[:3] == before[:3]
    assert after.reset_after == pytest.approx(before.reset_after)
    assert [limiter.hit("a").allowed for _ in range(2)] == [True, False]


def test_evicted_key_keeps_both_sliding_windows() -> None:
    """The current and the previous window are restored."""
    clock = FakeClock(600.0)
    limiter = Limiter("9/minute", max_keys=1, strategy="sliding-window-counter", clock=clock)
    limiter.hit("a", 4)
    clock.advance(75)
    limiter.hit("a", 2)
    before = limiter.peek("a")

    limiter.hit("b")

    assert limiter.peek("a") == before
    clock.advance(60)
    assert limiter.peek("a").remaining == 8  # three quarters of 2 count, rounded down


@every_strategy
def test_refund_of_an_expired_key_is_ignored(strategy: str, clock: FakeClock) -> None:
    """A refund adds no entry for an expired or unknown key."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)
    limiter.hit("a", 3)
    since = clock()
    clock.advance(120)

    limiter.charge("a", -3, since=since)
    limiter.charge("b", 0)

    assert limiter.peek("a").remaining == 3
    assert limiter.hit("c").allowed  # removes the expired entries
    assert len(limiter) == 1


@every_strategy
def test_refund_of_an_evicted_key_is_ignored(strategy: str, clock: FakeClock) -> None:
    """The sketch never decreases, since its cells may contain the usage of other keys."""
    limiter = Limiter("3/minute", max_keys=1, strategy=strategy, clock=clock)
    limiter.hit("a", 3)
    limiter.hit("b")

    limiter.charge("a", -3)

    assert not limiter.peek("a").allowed


@every_strategy
def test_charge_adds_an_entry(strategy: str, clock: FakeClock) -> None:
    """An unknown key gets an entry, and an evicted key is restored from the sketch."""
    limiter = Limiter("3/minute", max_keys=1, strategy=strategy, clock=clock)

    limiter.charge("a", 2)
    assert (len(limiter), limiter.peek("a").remaining) == (1, 1)
    limiter.hit("b")
    limiter.charge("a", 1)

    assert (len(limiter), limiter.peek("a").remaining) == (1, 0)


@every_strategy
def test_active_key_does_not_delay_the_expiry_of_other_keys(
    strategy: str, clock: FakeClock
) -> None:
    """Inactive entries are removed although an older entry is still in use."""
    limiter = Limiter("60/minute", strategy=strategy, clock=clock)
    for key in ("busy", "b", "c"):
        limiter.hit(key)

    for _ in range(13):
        clock.advance(10)
        limiter.hit("busy")
    limiter.hit("d")

    assert len(limiter) == 2


def test_restored_window_that_ends_first_expires_first(clock: FakeClock) -> None:
    """A window that returns is placed by its end, so that it expires before others are evicted."""
    limiter = Limiter("9 per 10 seconds", max_keys=3, clock=clock)
    for key in "abcde":  # evicts "a" and "b"
        limiter.hit(key)
        clock.advance(1)
    limiter.hit("a")  # evicts "c"
    limiter.hit("b")  # evicts "a", which ends before "b"
    evictions = limiter.evictions

    clock.advance(6.5)
    limiter.hit("f")

    assert (list(limiter), limiter.evictions) == (["d", "e", "f"], evictions)


def test_restored_window_expires_at_its_original_end(clock: FakeClock) -> None:
    """A restored window is removed before windows that end later."""
    limiter = Limiter("5/minute", max_keys=2, clock=clock)
    limiter.hit("a")
    clock.advance(50)
    for key in ("b", "c", "a"):
        limiter.hit(key)
    clock.advance(11)

    limiter.hit("d")

    assert limiter.evictions == 2  # "a" and "b" were evicted; then "a" expired
    assert limiter.peek("c").remaining == 4


@every_strategy
def test_change_of_the_wall_clock_has_no_effect(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits are measured by the monotonic clock."""
    limiter = Limiter("2/month", strategy=strategy)
    limiter.hit("a", 2)
    wait = limiter.peek("a").retry_after
    now = time.time()

    for jump in (3600, -3600, 10**9):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        decision = limiter.hit("a")
        assert not decision.allowed
        assert decision.retry_after == pytest.approx(wait, abs=60)


def test_default_clock_is_monotonic() -> None:
    """The default of `clock` is `time.monotonic`."""
    assert inspect.signature(Limiter).parameters["clock"].default is time.monotonic
    assert Limiter("1/minute").clock is time.monotonic


@pytest.mark.parametrize("amount", [1.5, "1", True, None])
def test_invalid_amount_is_rejected(amount: int) -> None:
    """An amount is an integer."""
    with pytest.raises(ValueError, match=f"amount must be an integer, got {amount!r}"):
        Limiter("1/minute").charge("a", amount)


def test_largest_limit_holds_for_evicted_keys(clock: FakeClock) -> None:
    """The sketch can store the usage of the largest limit."""
    limiter = Limiter(f"{2**48 - 1} per day", max_keys=1, clock=clock)
    limiter.hit("a", 2**48 - 1)

    limiter.hit("b")

    assert not limiter.hit("a").allowed


def test_clock_that_is_not_callable_is_rejected() -> None:
    """A clock is a function, not a time."""
    with pytest.raises(ValueError, match="clock must be a function such as"):
        Limiter("1/minute", clock=5)  # type: ignore[arg-type]


@every_strategy
def test_cleared_limiter_is_as_a_new_one(strategy: str, clock: FakeClock) -> None:
    """Neither the table nor the sketch keeps the usage of a key."""
    limiter = Limiter("1/minute", max_keys=2, strategy=strategy, clock=clock)
    keys = range(5)
    for key in keys:
        limiter.hit(key)

    limiter.clear()

    assert (len(limiter), limiter.evictions, limiter.clears) == (0, 0, 1)
    assert all(limiter.peek(key).allowed for key in keys)
    limiter.charge(0, -1)
    assert [limiter.hit(0).allowed for _ in range(2)] == [True, False]
