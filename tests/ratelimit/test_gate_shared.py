"""The gate, where some limiters are shared."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw import (
    ExchangeMiddleware,
    HttpMetrics,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
)
from tokenpulse_mw.ratelimit.policy_set import PolicySet

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.gates import client, gate_of
from ..support.metrics import decided
from ..support.servers import Server, redis_server
from ..support.waiting import PATIENCE

Local = Limiter | InFlight


def on(server: Server, limit: str, strategy: str = "fixed-window", **more: Any) -> SharedLimiter:
    """A limiter on a Redis."""
    storage = f"async+redis://{server.place}"
    return SharedLimiter(limit, storage=storage, strategy=strategy, **{"timeout": PATIENCE, **more})


async def left(limiter: Local | SharedLimiter) -> int:
    """What the client may still use."""
    if isinstance(limiter, SharedLimiter):
        return (await limiter.peek("client")).remaining
    return limiter.peek("client").remaining


@pytest.mark.parametrize(
    "smallest", ["here", "there", "sliding"], ids=lambda name: f"refused {name}"
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_here_or_there_a_refusal_consumes_nothing_elsewhere(
    smallest: str, redis: Server, anyio_backend: str
) -> None:
    """Whichever refuses, in this process or in a storage: the others are as before."""
    room = {name: 1 if name == smallest else 5 for name in ("here", "there", "sliding")}
    several: dict[str, Local | SharedLimiter] = {
        "sliding": on(redis, f"{room['sliding']}/day", "sliding-window-counter"),
        "there": on(redis, f"{room['there']}/day"),
        "here": Limiter(f"{room['here']}/day"),
        "places": InFlight(5),
    }
    gate = gate_of(*(Policy(each, name=name, key=client) for name, each in several.items()))

    _, allowed, holds = await gate.evaluate_shared(http_scope(), None)
    before = {name: await left(each) for name, each in several.items()}
    decisions, refusal, _ = await gate.evaluate_shared(http_scope(), None)

    assert (gate.shared, allowed) == (True, None)
    assert holds is not None
    assert before == {name: count - 1 for name, count in {**room, "places": 5}.items()}
    assert refusal is not None
    assert (refusal.policy, refusal.also) == (smallest, ())
    assert {name: await left(each) for name, each in several.items()} == before
    assert all(decision.remaining == before[decision.policy] for decision in decisions)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_shared_policy_in_shadow_keeps_nobody_out(
    redis: Server, anyio_backend: str
) -> None:
    """Those after it are asked, and what they grant is counted."""
    trial, real = on(redis, "1/day"), on(redis, "2/day")
    gate = gate_of(
        Policy(trial, name="trial", key=client, enforce=False),
        Policy(real, name="real", key=client),
    )

    refusals = [(await gate.evaluate_shared(http_scope(), None))[1] for _ in range(3)]

    assert [each and each.policy for each in refusals] == [None, None, "real"]
    assert await left(real) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_key_that_cannot_be_shared_is_told(
    redis: Server, anyio_backend: str, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The request passes that policy, and the others count it."""
    policies = [
        Policy(on(redis, "9/day"), name="broken", key=lambda scope: 0.5),
        Policy(on(redis, "1/day"), name="sound", key=client),
    ]
    app = ExchangeMiddleware(
        RateLimitMiddleware(answering(), policies=policies), observers=[metrics]
    )

    answers = [await drive(app) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 429]
    assert [record.args for record in caplog.records] == [
        ("rate limit policy broken", "ValueError")
    ]
    assert decided(metrics, "broken") == {"error": 2}
    assert decided(metrics, "sound") == {"allowed": 1, "limited": 1}


@pytest.mark.parametrize("on_error", ["local", "allow", "deny"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_storage_that_is_away_is_counted_as_an_error(
    on_error: Any, anyio_backend: str, metrics: HttpMetrics
) -> None:
    """The decision is what was settled for that case."""
    away = SharedLimiter("1/day", storage="async+redis://127.0.0.1:1", on_error=on_error)
    app = ExchangeMiddleware(RateLimitMiddleware(answering(), limiter=away), observers=[metrics])

    answers = [await drive(app) for _ in range(2)]

    expected = {"local": [200, 429], "allow": [200, 200], "deny": [429, 429]}
    assert [answer.status for answer in answers] == expected[on_error]
    assert decided(metrics, "default") == {"error": 2}


async def until(limiter: Local | SharedLimiter, *, remaining: int) -> None:
    """Wait until the client may use just so much."""
    async with asyncio.timeout(PATIENCE):
        while await left(limiter) != remaining:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_client_that_leaves_while_a_storage_stands_still_leaves_nothing_taken(
    redis: Server, anyio_backend: str
) -> None:
    """Its place is free at once, and what other policies counted is given back."""
    places, requests, there = InFlight(5), Limiter("5/day"), on(redis, "5/day")
    gate = gate_of(
        Policy(there, name="there", key=client),
        Policy(requests, name="here", key=client),
        Policy(places, name="places", key=client),
    )
    await gate.evaluate_shared(
        http_scope(), None
    )  # connects, and takes a place that is not given back
    redis.stop()

    task = asyncio.create_task(gate.evaluate_shared(http_scope(), None))
    await until(places, remaining=3)
    assert await left(requests) == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await left(places), await left(requests)) == (4, 4)
    redis.go_on()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_client_that_leaves_while_its_refusal_is_undone_gives_back_once(
    redis: Server, anyio_backend: str, tmp_path: Path
) -> None:
    """The place that another request has taken meanwhile stays taken."""
    second = redis_server(tmp_path)
    second.start()
    try:
        places, granting, refusing = InFlight(5), on(redis, "5/day"), on(second, "1/day")
        gate = gate_of(
            Policy(places, name="places", key=client),
            Policy(granting, name="granting", key=client),
            Policy(refusing, name="refusing", key=client),
        )
        await gate.evaluate_shared(http_scope(), None)
        second.stop()
        task = asyncio.create_task(gate.evaluate_shared(http_scope(), None))
        await until(granting, remaining=3)
        redis.stop()
        second.go_on()
        await until(places, remaining=4)  # given back, and the storage's turn is next
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await left(places) == 4
        redis.go_on()
    finally:
        second.kill()


def test_local_policies_are_asked_before_shared_ones() -> None:
    """What is hardest to undo comes last."""
    storage = "async+redis://127.0.0.1:1"
    sliding = SharedLimiter("1/day", storage=storage, strategy="sliding-window-counter")
    kinds: list[tuple[str, Any]] = [
        ("sliding", sliding),
        ("there", SharedLimiter("1/day", storage=storage)),
        ("here", Limiter("1/day")),
    ]

    gate = gate_of(*(Policy(limiter, name=name) for name, limiter in kinds))

    assert [policy.name for policy in gate.policies] == ["here", "there", "sliding"]


def test_policies_that_cannot_be_asked_together_make_no_gate() -> None:
    """None at all, or two of one name."""
    with pytest.raises(ValueError, match="policies must not be empty"):
        gate_of()
    with pytest.raises(ValueError, match="every policy must have a unique name"):
        gate_of(Policy("1/day"), Policy("2/day"))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_no_more_remains_than_the_limit(redis: Server, anyio_backend: str) -> None:
    """What was allowed without asking the storage took nothing, and gives nothing back."""
    away = SharedLimiter("5/day", storage="async+redis://127.0.0.1:1", on_error="allow")
    here = SharedLimiter("1/day", storage=f"async+redis://{redis.place}", timeout=PATIENCE)
    policies = [
        Policy(away, name="away", key=lambda scope: "me"),
        Policy(here, name="here", key=lambda scope: "me"),
    ]
    gate = PolicySet(policies, enforce=True, on_decision=None)
    await gate.evaluate_shared(http_scope(), None)

    decisions, refusal, _ = await gate.evaluate_shared(http_scope(), None)

    assert refusal is not None
    assert [each.remaining for each in decisions] == [5, 0]
