"""Policy sets with shared limiters."""

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
    SharedInFlight,
    SharedLimiter,
)
from tokenpulse_mw.ratelimit.policy_set import PolicySet

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.gates import client, policy_set_of
from ..support.metrics import decided
from ..support.servers import Server, redis_server
from ..support.waiting import PATIENCE

Local = Limiter | InFlight
Shared = SharedLimiter | SharedInFlight


def on(server: Server, limit: str, strategy: str = "fixed-window", **more: Any) -> SharedLimiter:
    """Return a limiter on a Redis."""
    storage = f"async+redis://{server.place}"
    return SharedLimiter(limit, storage=storage, strategy=strategy, **{"timeout": PATIENCE, **more})


def slots_on(server: Server, limit: int) -> SharedInFlight:
    """Return a limiter of concurrent requests on a Redis."""
    return SharedInFlight(limit, storage=f"redis://{server.place}", timeout=PATIENCE)


async def left(limiter: Local | Shared) -> int:
    """Return the remaining requests of the client."""
    if isinstance(limiter, Shared):
        return (await limiter.peek("client")).remaining
    return limiter.peek("client").remaining


@pytest.mark.parametrize(
    "smallest", ["local", "shared", "sliding", "shared-slots"], ids=lambda name: f"{name} rejects"
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_rejection_by_one_limiter_consumes_nothing_of_the_others(
    smallest: str, redis: Server, anyio_backend: str
) -> None:
    """Local and shared limiters are unchanged if any of them rejects the request."""
    names = ("local", "shared", "sliding", "shared-slots")
    limits = {name: 1 if name == smallest else 5 for name in names}
    limiters: dict[str, Local | Shared] = {
        "sliding": on(redis, f"{limits['sliding']}/day", "sliding-window-counter"),
        "shared": on(redis, f"{limits['shared']}/day"),
        "local": Limiter(f"{limits['local']}/day"),
        "slots": InFlight(5),
        "shared-slots": slots_on(redis, limits["shared-slots"]),
    }
    policy_set = policy_set_of(
        *(Policy(limiter, name=name, key=client) for name, limiter in limiters.items())
    )

    _, allowed, reservations = await policy_set.evaluate_async(http_scope(), None)
    before = {name: await left(limiter) for name, limiter in limiters.items()}
    decisions, rejection, _ = await policy_set.evaluate_async(http_scope(), None)

    assert (policy_set.awaits, allowed) == (True, None)
    assert reservations is not None
    assert before == {name: count - 1 for name, count in {**limits, "slots": 5}.items()}
    assert rejection is not None
    assert (rejection.policy, rejection.also) == (smallest, ())
    for limiter in limiters.values():
        if isinstance(limiter, SharedInFlight):
            await limiter.aclose()  # waits for the release
    assert {name: await left(limiter) for name, limiter in limiters.items()} == before
    assert all(decision.remaining == before[decision.policy] for decision in decisions)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_policy_in_shadow_mode_rejects_no_request(
    redis: Server, anyio_backend: str
) -> None:
    """The policies after it are evaluated and count the request."""
    trial, real = on(redis, "1/day"), on(redis, "2/day")
    policy_set = policy_set_of(
        Policy(trial, name="trial", key=client, enforce=False),
        Policy(real, name="real", key=client),
    )

    rejections = [(await policy_set.evaluate_async(http_scope(), None))[1] for _ in range(3)]

    assert [rejection and rejection.policy for rejection in rejections] == [None, None, "real"]
    assert await left(real) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_key_of_unsupported_type_is_logged_and_disables_its_policy(
    redis: Server, anyio_backend: str, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is not limited by that policy, but by the others."""
    policies = [
        Policy(on(redis, "9/day"), name="broken", key=lambda scope: 0.5),
        Policy(on(redis, "1/day"), name="valid", key=client),
    ]
    app = ExchangeMiddleware(
        RateLimitMiddleware(answering(), policies=policies), observers=[metrics]
    )

    responses = [await drive(app) for _ in range(2)]

    assert [response.status for response in responses] == [200, 429]
    assert [record.args for record in caplog.records] == [
        ("rate limit policy broken", "ValueError")
    ]
    assert decided(metrics, "broken") == {"error": 2}
    assert decided(metrics, "valid") == {"allowed": 1, "limited": 1}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_key_of_unsupported_type_of_the_only_policy_is_logged(
    anyio_backend: str, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is not limited."""
    policy = Policy(SharedLimiter("9/day", storage="redis://127.0.0.1:1"), key=lambda scope: 0.5)
    app = ExchangeMiddleware(
        RateLimitMiddleware(answering(), policies=[policy]), observers=[metrics]
    )

    assert (await drive(app)).status == 200
    assert [record.args for record in caplog.records] == [
        ("rate limit policy default", "ValueError")
    ]
    assert decided(metrics, "default") == {"error": 1}


@pytest.mark.parametrize("on_error", ["local", "allow", "deny"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_decision_without_storage_is_counted_as_error(
    on_error: Any, anyio_backend: str, metrics: HttpMetrics
) -> None:
    """The decision itself is that of `on_error`."""
    unavailable = SharedLimiter("1/day", storage="async+redis://127.0.0.1:1", on_error=on_error)
    app = ExchangeMiddleware(
        RateLimitMiddleware(answering(), limiter=unavailable), observers=[metrics]
    )

    responses = [await drive(app) for _ in range(2)]

    expected = {"local": [200, 429], "allow": [200, 200], "deny": [429, 429]}
    assert [response.status for response in responses] == expected[on_error]
    assert decided(metrics, "default") == {"error": 2}


async def until(limiter: Local | Shared, *, remaining: int) -> None:
    """Wait until the client has exactly `remaining` requests."""
    async with asyncio.timeout(PATIENCE):
        while await left(limiter) != remaining:  # noqa: ASYNC110 - no event signals the change
            await asyncio.sleep(0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_client_that_disconnects_during_storage_delay_is_rolled_back(
    redis: Server, anyio_backend: str
) -> None:
    """The slot is released at once, and the charges of other policies are refunded."""
    slots, requests, shared = InFlight(5), Limiter("5/day"), on(redis, "5/day")
    policy_set = policy_set_of(
        Policy(shared, name="shared", key=client),
        Policy(requests, name="local", key=client),
        Policy(slots, name="slots", key=client),
    )
    await policy_set.evaluate_async(http_scope(), None)  # connects; its slot is never released
    redis.stop()

    task = asyncio.create_task(policy_set.evaluate_async(http_scope(), None))
    await until(slots, remaining=3)
    assert await left(requests) == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await left(slots), await left(requests)) == (4, 4)
    redis.resume()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_client_that_disconnects_during_rollback_is_refunded_once(
    redis: Server, anyio_backend: str, tmp_path: Path
) -> None:
    """The slot of another request stays taken."""
    second = redis_server(tmp_path)
    second.start()
    try:
        slots, allowing, rejecting = InFlight(5), on(redis, "5/day"), on(second, "1/day")
        policy_set = policy_set_of(
            Policy(slots, name="slots", key=client),
            Policy(allowing, name="allowing", key=client),
            Policy(rejecting, name="rejecting", key=client),
        )
        await policy_set.evaluate_async(http_scope(), None)
        second.stop()
        task = asyncio.create_task(policy_set.evaluate_async(http_scope(), None))
        await until(allowing, remaining=3)
        redis.stop()
        second.resume()
        await until(slots, remaining=4)  # released; the refund in the storage is next
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await left(slots) == 4
        redis.resume()
    finally:
        second.kill()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_slot_of_a_client_that_disconnects_is_released(
    redis: Server, anyio_backend: str, tmp_path: Path
) -> None:
    """It is released although the request still waits for another storage."""
    second = redis_server(tmp_path)
    second.start()
    try:
        slots, slow = slots_on(redis, 5), on(second, "5/day")
        policies = [Policy(slots, name="slots", key=client), Policy(slow, name="slow", key=client)]
        policy_set = policy_set_of(*policies)
        await policy_set.evaluate_async(http_scope(), None)
        second.stop()

        task = asyncio.create_task(policy_set.evaluate_async(http_scope(), None))
        await until(slots, remaining=3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await until(slots, remaining=4)
    finally:
        second.kill()


def test_local_policies_are_evaluated_before_shared_policies() -> None:
    """The policy that cannot be rolled back comes last."""
    storage = "async+redis://127.0.0.1:1"
    sliding = SharedLimiter("1/day", storage=storage, strategy="sliding-window-counter")
    kinds: list[tuple[str, Any]] = [
        ("sliding", sliding),
        ("shared", SharedLimiter("1/day", storage=storage)),
        ("slots", SharedInFlight(1, storage=storage)),
        ("local", Limiter("1/day")),
    ]

    policy_set = policy_set_of(*(Policy(limiter, name=name) for name, limiter in kinds))

    assert [policy.name for policy in policy_set.policies] == [
        "local",
        "shared",
        "slots",
        "sliding",
    ]


def test_invalid_policies_are_rejected() -> None:
    """A policy set needs at least one policy, and unique names."""
    with pytest.raises(ValueError, match="policies must not be empty"):
        policy_set_of()
    with pytest.raises(ValueError, match="every policy must have a unique name"):
        policy_set_of(Policy("1/day"), Policy("2/day"))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_rolled_back_decision_remains_within_the_limit(
    redis: Server, anyio_backend: str
) -> None:
    """A decision without the storage counted nothing, so nothing is refunded."""
    unavailable = SharedLimiter("5/day", storage="async+redis://127.0.0.1:1", on_error="allow")
    available = SharedLimiter("1/day", storage=f"async+redis://{redis.place}", timeout=PATIENCE)
    policies = [
        Policy(unavailable, name="unavailable", key=lambda scope: "me"),
        Policy(available, name="available", key=lambda scope: "me"),
    ]
    policy_set = PolicySet(policies, enforce=True, on_decision=None)
    await policy_set.evaluate_async(http_scope(), None)

    decisions, rejection, _ = await policy_set.evaluate_async(http_scope(), None)

    assert rejection is not None
    assert [decision.remaining for decision in decisions] == [5, 0]
