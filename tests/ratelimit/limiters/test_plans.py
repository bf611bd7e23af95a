"""PlanLimiter: the rate is a function of the key."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

import anyio
import pytest

from tokenpulse_mw import PlanLimiter, SharedLimiter
from tokenpulse_mw.ratelimit.limiters import plans

from ...support.clock import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return the captured log of errors."""
    caplog.set_level(logging.ERROR)
    return caplog


def hits(limiter: PlanLimiter, key: Hashable, number: int) -> int:
    """Return how many of `number` requests are allowed."""
    return sum(limiter.hit(key).allowed for _ in range(number))


@pytest.mark.parametrize("strategy", ["fixed-window", "gcra"])
def test_each_key_has_the_rate_of_its_plan(clock: FakeClock, strategy: str) -> None:
    """Decisions have the limit and the window of the key."""
    rates = {"a": "2/minute", "b": "5/hour"}
    limiter = PlanLimiter(rates.__getitem__, strategy=strategy, clock=clock)

    assert [hits(limiter, key, 9) for key in ("a", "b", "a")] == [2, 5, 0]
    decisions = [limiter.hit("a"), limiter.peek("b")]
    assert [(decision.limit, decision.window) for decision in decisions] == [(2, 60), (5, 3600)]
    clock.advance(60)
    assert [hits(limiter, key, 9) for key in ("a", "b")] == [2, 0]


@pytest.mark.parametrize("strategy", ["fixed-window", "gcra"])
def test_new_plan_keeps_the_usage_of_the_window(clock: FakeClock, strategy: str) -> None:
    """An upgrade adds room, a downgrade removes it, and no request is forgotten."""
    rates = {"a": "4/hour"}
    limiter = PlanLimiter(rates.__getitem__, strategy=strategy, clock=clock)

    assert hits(limiter, "a", 9) == 4
    rates["a"] = "6/hour"
    assert hits(limiter, "a", 9) == 2
    rates["a"] = "3/hour"
    assert (hits(limiter, "a", 9), limiter.peek("a").remaining) == (0, 0)
    rates["a"] = "10/minute"
    assert hits(limiter, "a", 9) == 4


def test_tokens_are_settled_at_the_rate_of_the_key(clock: FakeClock) -> None:
    """A correction counts under the current plan, and is ignored without a limit."""
    rates: dict[str, str | None] = {"a": "100/hour"}
    limiter = PlanLimiter(rates.__getitem__, clock=clock)

    limiter.hit("a", 50)
    limiter.charge("a", -20)
    assert limiter.peek("a").remaining == 70
    rates["a"] = None
    limiter.charge("a", 60)
    rates["a"] = "100/hour"
    assert limiter.peek("a").remaining == 70


def test_charge_without_a_known_rate_is_ignored(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that fails when a response ends is logged; the reserve stays charged."""
    rates = {"a": "100/hour"}
    limiter = PlanLimiter(rates.__getitem__, clock=clock)

    limiter.hit("a", 50)
    del rates["a"]
    limiter.charge("a", -20)

    rates["a"] = "100/hour"
    assert limiter.peek("a").remaining == 50
    assert "failed with KeyError" in caplog.text


def test_key_without_limit_cannot_be_hit() -> None:
    """A caller tests first whether the key is limited."""
    limiter = PlanLimiter(lambda key: None)

    assert not limiter.is_limited("a")
    with pytest.raises(ValueError, match="key must have a limit, got 'a', whose rate is None"):
        limiter.hit("a")


@pytest.mark.parametrize("rate", ["fast", 100, "1/minute;2/hour"])
def test_failing_function_has_the_default_rate(log: pytest.LogCaptureFixture, rate: Any) -> None:
    """An invalid rate is an error of the function: it is logged, and the default applies."""

    def plan_of(tenant: str) -> Any:
        return rate

    limiter = PlanLimiter(plan_of, default="2/minute")

    assert hits(limiter, "a", 5) == 2
    assert "rate function plan_of failed with ValueError" in log.text
    with pytest.raises(ValueError, match="limit must be one rate"):
        PlanLimiter(plan_of).hit("a")


async def test_async_rate_is_cached(clock: FakeClock) -> None:
    """The function is called once in `ttl` seconds for each key."""
    calls: list[str] = []
    rates = {"a": "1/hour"}

    async def plan_of(tenant: str) -> str:
        calls.append(tenant)
        return rates[tenant]

    limiter = PlanLimiter(plan_of, ttl=10, clock=clock)

    for _ in range(3):
        await limiter.load("a")
    assert (hits(limiter, "a", 5), calls) == (1, ["a"])
    rates["a"] = "3/hour"
    clock.advance(9)
    await limiter.load("a")
    assert hits(limiter, "a", 5) == 0
    clock.advance(1)
    await limiter.load("a")
    assert (hits(limiter, "a", 5), calls) == (2, ["a", "a"])


async def test_cleared_limiter_has_no_rates(clock: FakeClock) -> None:
    """After `clear`, the function is called again, and no usage is left."""
    calls: list[str] = []

    async def plan_of(tenant: str) -> str:
        calls.append(tenant)
        return "1/hour"

    limiter = PlanLimiter(plan_of, clock=clock)
    for _ in range(2):
        await limiter.load("a")
        assert hits(limiter, "a", 3) == 1
        limiter.clear()

    assert calls == ["a", "a"]


async def test_failing_async_function_keeps_the_last_rate(
    clock: FakeClock, log: pytest.LogCaptureFixture
) -> None:
    """A key that is known keeps its rate, and the function is called again after a few seconds."""
    calls: list[str] = []
    errors: list[Exception] = []

    class Plans:
        async def __call__(self, tenant: str) -> str:
            calls.append(tenant)
            if errors:
                raise errors[0]
            return "2/hour"

    limiter = PlanLimiter(Plans(), default="1/hour", ttl=10, clock=clock)

    await limiter.load("a")
    errors.append(ConnectionError("database is down"))
    clock.advance(10)
    for _ in range(3):
        await limiter.load("a")
        await limiter.load("b")
    assert calls == ["a", "a", "b"]
    assert [hits(limiter, "a", 5), hits(limiter, "b", 5)] == [2, 1]
    clock.advance(5)
    await limiter.load("b")
    assert calls == ["a", "a", "b", "b"]
    assert "rate function Plans failed with ConnectionError" in log.text


async def test_slow_async_function_is_cancelled(log: pytest.LogCaptureFixture) -> None:
    """After `timeout`, the request continues with the default rate."""

    async def plan_of(tenant: str) -> str:
        await anyio.sleep_forever()
        return ""

    limiter = PlanLimiter(plan_of, default="1/hour", timeout=0.001)
    await limiter.load("a")

    assert hits(limiter, "a", 5) == 1
    assert "rate function plan_of failed with TimeoutError" in log.text


async def test_unknown_rate_of_an_async_function_is_an_error(
    log: pytest.LogCaptureFixture,
) -> None:
    """Without a default, a key whose rate was never known cannot be limited."""

    async def plan_of(tenant: str) -> str:
        raise ConnectionError

    limiter = PlanLimiter(plan_of)
    await limiter.load("a")

    with pytest.raises(LookupError, match="the rate is not known, since rate function plan_of"):
        limiter.is_limited("a")
    assert hits(PlanLimiter(plan_of, default="1/hour"), "a", 5) == 1


async def test_other_requests_use_the_last_rate_while_it_is_loaded(clock: FakeClock) -> None:
    """When a cached rate expires, one request waits for the new one."""
    release = anyio.Event()
    calls: list[str] = []

    async def plan_of(tenant: str) -> str:
        calls.append(tenant)
        if len(calls) > 1:
            await release.wait()
        return f"{len(calls)}/hour"

    limiter = PlanLimiter(plan_of, ttl=10, timeout=60, clock=clock)
    await limiter.load("a")
    clock.advance(10)

    async with anyio.create_task_group() as group:
        group.start_soon(limiter.load, "a")
        await anyio.wait_all_tasks_blocked()
        await limiter.load("a")
        assert limiter.peek("a").limit == 1
        release.set()
    assert (limiter.peek("a").limit, calls) == (2, ["a", "a"])


async def test_replaced_function_that_is_still_awaited_is_not_cached(clock: FakeClock) -> None:
    """The request after a change of the rates calls the new function."""
    release = anyio.Event()

    async def before(tenant: str) -> str:
        await release.wait()
        return "1/hour"

    async def after(tenant: str) -> str:
        return "2/hour"

    limiter = PlanLimiter(before, timeout=60, clock=clock)
    async with anyio.create_task_group() as group:
        group.start_soon(limiter.load, "a")
        await anyio.wait_all_tasks_blocked()
        limiter.set_rates(after)
        release.set()
    await limiter.load("a")

    assert limiter.peek("a").limit == 2


async def test_memory_is_bounded(clock: FakeClock) -> None:
    """Neither keys nor different rates grow without limit, and no key exceeds its rate."""

    async def plan_of(tenant: int) -> str:
        return f"{tenant + 1}/hour"

    limiter = PlanLimiter(plan_of, max_keys=10, clock=clock)
    for tenant in range(2000):
        await limiter.load(tenant)
        limiter.hit(tenant)

    assert (len(limiter), len(limiter._rates)) == (10, 10)
    assert plans._parse.cache_info().currsize <= plans._MAX_RATES
    await limiter.load(1)
    assert hits(limiter, 1, 5) <= 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"plan_of": "free"}, "plan_of must be a function of the key .* got 'free'"),
        ({"rate_of": "1/minute"}, "rate_of must be a function of the key .* got '1/minute'"),
        ({"default": "fast"}, "limit must be one rate"),
        ({"ttl": 0}, "ttl must be a number of seconds"),
        ({"timeout": -1}, "timeout must be a number of seconds"),
        ({"max_keys": 0}, "max_keys must be an integer"),
        ({"strategy": "sliding-window-counter"}, "strategy must be one of fixed-window, gcra"),
    ],
)
def test_malformed_argument_is_rejected(options: dict[str, Any], error: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=error):
        PlanLimiter(**{"rate_of": lambda key: "1/minute", **options})


def test_shared_limiter_rejects_a_function() -> None:
    """A rate that depends on the key needs counters in this process."""
    with pytest.raises(ValueError, match=r"use PlanLimiter\(function\), which counts in this"):
        SharedLimiter(lambda key: "1/minute", storage="async+redis://localhost")  # type: ignore[arg-type]
