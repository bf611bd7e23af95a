"""Shared policies of one request that one Redis decides together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenpulse_mw import HttpMetrics, Policy, RateLimitMiddleware, SharedLimiter
from tokenpulse_mw.exchange import ExchangeMiddleware

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from ..support.gates import client, policy_set_of
from ..support.metrics import decided
from ..support.servers import Server, free_port, redis_server, started
from ..support.waiting import PATIENCE
from .shared.conftest import direct_client
from .shared.test_batches import scripts_run
from .shared.test_redis import cluster

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Return the only event loop that the drivers support."""
    return "asyncio"


def on(server: Server, limit: str, **more: Any) -> SharedLimiter:
    """Return a limiter on a Redis."""
    return SharedLimiter(limit, storage=f"redis://{server.place}", **{"timeout": PATIENCE, **more})


def policy(name: str, limiter: SharedLimiter, **more: Any) -> Policy:
    """Return a policy for a single client."""
    return Policy(limiter, name=name, key=client, **more)


async def left(*limiters: SharedLimiter) -> list[int]:
    """Return the remaining requests of the client."""
    return [(await limiter.peek("client")).remaining for limiter in limiters]


async def test_policies_of_one_storage_are_decided_by_one_script(redis: Server) -> None:
    """A request waits for one round trip, and is counted under all policies."""
    limiters = [
        on(redis, "3/hour"),
        on(redis, "100/day"),
        on(redis, "1000/day", strategy="sliding-window-counter"),
    ]
    policies = policy_set_of(*(policy(f"p{n}", limiter) for n, limiter in enumerate(limiters)))
    await policies.evaluate_async(http_scope(), None)
    before = await scripts_run(redis)

    decisions, rejection, _ = await policies.evaluate_async(http_scope(), None)

    assert await scripts_run(redis) == before + 1
    assert rejection is None
    assert [(decision.policy, decision.remaining) for decision in decisions] == [
        ("p0", 1),
        ("p1", 98),
        ("p2", 998),
    ]
    assert await left(*limiters) == [1, 98, 998]


async def test_rejection_counts_under_no_policy_and_names_all_that_reject(redis: Server) -> None:
    """The headers show the remaining requests of all policies, as before the request."""
    limiters = [on(redis, "5/hour"), on(redis, "1/hour"), on(redis, "1/day")]
    policies = policy_set_of(*(policy(f"p{n}", limiter) for n, limiter in enumerate(limiters)))
    await policies.evaluate_async(http_scope(), None)

    decisions, rejection, reservations = await policies.evaluate_async(http_scope(), None)

    assert rejection is not None
    assert (rejection.policy, rejection.also, reservations) == ("p2", ("p1",), None)
    assert [decision.remaining for decision in decisions] == [4, 0, 0]
    assert await left(*limiters) == [4, 0, 0]


async def test_rejected_key_is_rejected_without_the_storage(
    redis: Server, clock: FakeClock
) -> None:
    """One policy that has rejected the key in the last second is enough."""
    limiters = [on(redis, "5/hour", clock=clock), on(redis, "1/hour", clock=clock)]
    policies = policy_set_of(policy("wide", limiters[0]), policy("narrow", limiters[1]))
    for _ in range(2):
        await policies.evaluate_async(http_scope(), None)
    before = await scripts_run(redis)

    decisions, rejection, _ = await policies.evaluate_async(http_scope(), None)

    assert await scripts_run(redis) == before
    assert [decision.policy for decision in decisions] == ["narrow"]
    assert rejection is not None
    assert await left(*limiters) == [4, 0]


async def test_rejection_in_shadow_mode_rejects_no_other_policy(
    redis: Server, clock: FakeClock
) -> None:
    """The request is counted under the others, also while the rejection is known."""
    shadow, real = on(redis, "1/hour", clock=clock), on(redis, "4/hour", clock=clock)
    policies = policy_set_of(policy("shadow", shadow, enforce=False), policy("real", real))

    rejections = [(await policies.evaluate_async(http_scope(), None))[1] for _ in range(5)]

    assert [rejection and rejection.policy for rejection in rejections] == [*[None] * 4, "real"]
    assert await left(shadow, real) == [0, 0]


async def test_request_that_is_rejected_is_not_counted_in_shadow_mode_either(
    redis: Server,
) -> None:
    """All counts of a rejected request are undone, as for limiters of the process."""
    shadow, real = on(redis, "9/hour"), on(redis, "1/hour")
    policies = policy_set_of(policy("shadow", shadow, enforce=False), policy("real", real))

    for _ in range(3):
        await policies.evaluate_async(http_scope(), None)

    assert await left(shadow, real) == [8, 0]


async def test_rejection_by_another_storage_is_refunded(redis: Server, tmp_path: Path) -> None:
    """The sliding window, which cannot be refunded, is decided last."""
    for second in started(redis_server(tmp_path), "redis-server"):
        sliding = on(redis, "9/hour", strategy="sliding-window-counter")
        limiters = [sliding, on(redis, "8/hour"), on(second, "1/hour"), on(second, "7/hour")]
        policies = policy_set_of(*(policy(f"p{n}", limiter) for n, limiter in enumerate(limiters)))

        for _ in range(3):
            _, rejection, _ = await policies.evaluate_async(http_scope(), None)

        assert rejection is not None
        assert rejection.policy == "p2"
        assert await left(*limiters) == [8, 7, 0, 6]


async def test_error_in_the_joint_decision_fails_no_request(
    redis: Server, metrics: HttpMetrics
) -> None:
    """An error after the round trip, here of a clock, counts for all policies of the storage."""
    readings = iter([0.0, 0.0])
    limiters = [on(redis, "1/hour"), on(redis, "2/hour", clock=lambda: next(readings))]
    policies = [policy(f"p{n}", limiter) for n, limiter in enumerate(limiters)]
    limited = RateLimitMiddleware(answering(), policies=policies)

    response = await drive(ExchangeMiddleware(limited, observers=[metrics]))

    assert (response.error, response.status) == (None, 200)
    assert [decided(metrics, name) for name in ("p0", "p1")] == [{"error": 1}] * 2


@pytest.mark.parametrize(
    ("on_error", "allowed"), [("local", [True, True, False]), ("allow", [True] * 3)]
)
async def test_policies_are_decided_by_on_error_during_an_outage(
    on_error: str, allowed: list[bool]
) -> None:
    """Each limiter decides as without the storage, and a rejection is rolled back."""
    storage = f"redis://127.0.0.1:{free_port()}"
    wide, narrow = (SharedLimiter(f"{n}/hour", storage=storage, on_error=on_error) for n in (5, 2))
    policies = policy_set_of(policy("wide", wide), policy("narrow", narrow))

    evaluations = [await policies.evaluate_async(http_scope(), None) for _ in range(3)]

    assert [rejection is None for _, rejection, _ in evaluations] == allowed
    assert all(decision.degraded for decisions, _, _ in evaluations for decision in decisions)
    if on_error == "local":
        assert await left(wide, narrow) == [3, 0]


async def test_rejection_without_the_storage_ends_the_evaluation() -> None:
    """The policies after it are not counted."""
    storage = f"redis://127.0.0.1:{free_port()}"
    denying = SharedLimiter("5/hour", storage=storage, on_error="deny")
    local = SharedLimiter("4/hour", storage=storage)
    policies = policy_set_of(policy("denying", denying), policy("local", local))

    decisions, rejection, _ = await policies.evaluate_async(http_scope(), None)

    assert [decision.policy for decision in decisions] == ["denying"]
    assert rejection is not None
    assert await left(local) == [4]


async def test_key_that_cannot_be_shared_disables_only_its_policy(
    redis: Server, metrics: HttpMetrics
) -> None:
    """The other policies are decided together, and if none is left, the request is allowed."""
    policies = [
        Policy(on(redis, "9/day"), name="broken", key=lambda scope: 0.5),
        policy("first", on(redis, "8/day")),
        policy("second", on(redis, "1/day")),
    ]
    app = RateLimitMiddleware(answering(), policies=policies)
    responses = [
        (await drive(ExchangeMiddleware(app, observers=[metrics]))).status for _ in range(2)
    ]

    assert responses == [200, 429]
    assert decided(metrics, "broken") == {"error": 2}
    assert decided(metrics, "first") == {"allowed": 2}
    assert decided(metrics, "second") == {"allowed": 1, "limited": 1}
    broken = [Policy(on(redis, f"{n}/day"), name=f"p{n}", key=lambda scope: 0.5) for n in (1, 2)]
    decisions, rejection, _ = await policy_set_of(*broken).evaluate_async(http_scope(), None)
    assert (decisions, rejection) == ([], None)


async def test_storage_with_hash_slots_decides_in_turn(tmp_path: Path) -> None:
    """One script cannot read keys of several slots, so a rejection is refunded."""
    async with cluster(tmp_path) as server:
        for scheme in ("redis", "redis+cluster"):
            wide, narrow = (
                SharedLimiter(
                    limit,
                    storage=f"{scheme}://{server.place}",
                    prefix=scheme.replace("+", "-"),
                    on_error="deny",
                    timeout=PATIENCE,
                )
                for limit in ("5/hour", "1/hour")
            )
            policies = policy_set_of(policy("wide", wide), policy("narrow", narrow))

            evaluations = [await policies.evaluate_async(http_scope(), None) for _ in range(2)]

            rejections = [rejection and rejection.policy for _, rejection, _ in evaluations]
            assert rejections == [None, "narrow"]
            assert await left(wide, narrow) == [4, 0]
            await wide.aclose()
            await narrow.aclose()


async def test_failed_operation_is_decided_by_on_error_for_all_policies(redis: Server) -> None:
    """Nothing is counted in the storage, since the script reads all counters first."""
    bad, good = on(redis, "9/hour"), on(redis, "8/hour")
    policies = policy_set_of(policy("good", good), policy("bad", bad))
    await bad.hit("client")
    async with direct_client(redis) as direct:
        (name,) = await direct.keys("*")
        await direct.delete([name])
        await direct.lpush(name, ["x"])

    decisions, rejection, _ = await policies.evaluate_async(http_scope(), None)

    assert rejection is None
    assert [decision.degraded for decision in decisions] == [True, True]
    async with direct_client(redis) as direct:
        assert await direct.keys("*") == {name}


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limits=st.lists(st.integers(1, 6), min_size=2, max_size=4, unique=True),
    shadow=st.integers(0, 5),
    requests=st.integers(1, 20),
)
def test_concurrent_requests_are_counted_under_all_policies_or_none(
    redis: Server, limits: list[int], shadow: int, requests: int
) -> None:
    """The smallest enforced limit decides, and only allowed requests are counted."""

    async def run() -> tuple[int, list[int]]:
        limiters = [on(redis, f"{limit}/hour") for limit in limits]
        for limiter in limiters:
            await limiter.reset("client")
        policies = policy_set_of(
            *(
                policy(f"p{number}", limiter, enforce=number != shadow)
                for number, limiter in enumerate(limiters)
            )
        )
        evaluations = await asyncio.gather(
            *[policies.evaluate_async(http_scope(), None) for _ in range(requests)]
        )
        remaining = await left(*limiters)
        for limiter in limiters:
            await limiter.aclose()
        return sum(rejection is None for _, rejection, _ in evaluations), remaining

    allowed, remaining = asyncio.run(run())

    enforced = [limit for number, limit in enumerate(limits) if number != shadow]
    assert allowed == min(requests, *enforced)
    assert remaining == [max(limit - allowed, 0) for limit in limits]
