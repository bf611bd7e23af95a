"""Blocked keys, and the keys that were rejected last, in the middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Scope

from tokenpulse_mw import (
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Observer,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
)
from tokenpulse_mw.ratelimit import BlockedKeys, KeyBlock, Rejections

from ..support.apps import answering
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock

pytestmark = pytest.mark.anyio

NOON = 1_800_000_000.0


class Decisions(Observer):
    """Observer of the decisions."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def on_limit(self, policy: str, decision: str) -> None:
        """Note a decision."""
        self.seen.append((policy, decision))


class Gateway:
    """Limits by the header x-client.

    Args:
        policies: Limits.
        options: Options of the middleware.
    """

    def __init__(self, *policies: Policy, **options: Any) -> None:
        self.clock = FakeClock(NOON)
        self.blocks = BlockedKeys(policies, clock=self.clock)
        self.rejections = Rejections(clock=self.clock, max_keys=3)
        self.decisions = Decisions()
        options = {"policies": policies, "rejections": self.rejections, **options}
        self.app: Any = RateLimitMiddleware(answering(), **options)
        self.observed = ExchangeMiddleware(self.app, observers=[self.decisions])

    def block(self, policy: Policy, key: str, seconds: float = 600) -> None:
        """Block a key."""
        block = KeyBlock(NOON + seconds, NOON, "ada", "abuse")
        self.blocks.set(policy, key, block)

    async def send(self, client: str, *, observed: bool = True, path: str = "/") -> Answer:
        """Return the response to a request."""
        scope = http_scope(path, headers=[(b"x-client", client.encode())])
        return await drive(self.observed if observed else self.app, scope)


def client_of(scope: Scope) -> str:
    """Return the client of a request."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers[b"x-client"].decode()


def policy(limit: Any = "5/minute", **options: Any) -> Policy:
    """Return a limit by client."""
    return Policy(limit, **{"key": client_of, **options})


KINDS: dict[str, Callable[[], list[Policy]]] = {
    "one": lambda: [policy(name="first")],
    "several": lambda: [policy(name="first"), policy("9/minute", name="second")],
    "tokens": lambda: [policy("9000/minute", name="first", tokens=10)],
    "slots": lambda: [policy(InFlight(2), name="first")],
    "plans": lambda: [policy(lambda key: "5/minute", name="first")],
    "shared": lambda: [
        policy(name="first"),
        policy(SharedLimiter("5/minute", storage="redis://localhost:1"), name="second"),
    ],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
async def test_blocked_key_is_rejected_until_its_block_ends(kind: str) -> None:
    """`Retry-After` is the end of the block, and other keys are not affected."""
    policies = KINDS[kind]()
    gateway = Gateway(*policies)
    gateway.block(policies[0], "eve")

    rejected, other = await gateway.send("eve"), await gateway.send("ada")
    gateway.clock.advance(600)
    later = await gateway.send("eve")

    assert (rejected.status, rejected.headers["retry-after"]) == (429, "600")
    assert '"first";r=0;t=600' in rejected.headers["ratelimit"]
    assert (other.status, later.status) == (200, 200)
    assert not policies[0].is_special


@every_kind
async def test_block_counts_under_no_policy(kind: str) -> None:
    """A rejected request consumes nothing, also of the other policies."""
    policies = KINDS[kind]()
    gateway = Gateway(*policies)
    gateway.block(policies[-1], "eve")

    assert (await gateway.send("eve")).status == 429

    assert (policies[-1].name, "limited") in gateway.decisions.seen
    for limit in policies:
        if not limit.shared and limit.plans is None:
            assert limit.local.peek("eve", 0).remaining == limit.limiter.limit


@every_kind
async def test_block_in_shadow_mode_is_reported(kind: str) -> None:
    """The request passes, and counts under the other policies."""
    policies = KINDS[kind]()
    gateway = Gateway(*policies, enforce=False)
    gateway.block(policies[0], "eve")

    assert (await gateway.send("eve")).status == 200

    assert ("first", "shadow") in gateway.decisions.seen
    assert len(gateway.decisions.seen) == len(policies)
    assert gateway.rejections.newest(9) == []


async def test_blocked_key_without_a_limit_is_rejected() -> None:
    """A plan without a rate, or whose rate is not known, admits all other keys."""
    plans = policy({"staff": None}, name="plans")
    gateway = Gateway(plans)
    for client in ("staff", "unknown"):
        gateway.block(plans, client)

    assert [(await gateway.send(client)).status for client in ("staff", "unknown", "x")] == [
        429,
        429,
        200,
    ]


@pytest.mark.parametrize("blocked", [0, 1])
async def test_block_under_one_of_two_shared_policies(blocked: int) -> None:
    """They are not decided together then."""
    storage = "redis://localhost:1"
    policies = [
        policy(SharedLimiter(f"{number}/minute", storage=storage), name=f"shared-{number}")
        for number in (5, 6)
    ]
    gateway = Gateway(*policies)
    gateway.block(policies[blocked], "eve")

    assert [(await gateway.send(client)).status for client in ("eve", "ada")] == [429, 200]


async def test_suspended_policy_blocks_nothing() -> None:
    """A test of something else is not disturbed by a block."""
    first = policy()
    gateway = Gateway(first)
    gateway.block(first, "eve")

    first.suspended = True
    statuses = [(await gateway.send("eve")).status]
    first.suspended = False
    statuses.append((await gateway.send("eve")).status)

    assert statuses == [200, 429]
    assert (first.suspended, first.is_special) == (False, True)


async def test_block_applies_only_to_the_requests_of_its_policy() -> None:
    """A request that the policy does not count is not rejected."""
    first = policy(when=lambda scope: scope["path"] == "/v1")
    gateway = Gateway(first)
    gateway.block(first, "eve")

    assert [(await gateway.send("eve", path=path)).status for path in ("/", "/v1")] == [200, 429]


async def test_status_of_the_policy_is_that_of_a_block() -> None:
    """A policy may reject with 402."""
    first = policy(status=402)
    gateway = Gateway(first)
    gateway.block(first, "eve")

    assert (await gateway.send("eve", observed=False)).status == 402


def test_removed_block_leaves_the_others() -> None:
    """The flag of the policy is unset with the last block."""
    first = policy()
    blocks = BlockedKeys([first], clock=FakeClock(NOON))
    for key in ("a", "b"):
        blocks.set(first, key, KeyBlock(NOON + 60, NOON, "ada", ""))

    blocks.remove(first, "a")
    assert (list(blocks.of(first)), first.is_special) == (["b"], True)
    blocks.set(first, "b", KeyBlock(0.0, NOON, "ada", ""))
    blocks.remove(first, "never blocked")

    assert (list(blocks.of(first)), first.is_special, first.rejection_of("b")) == ([], False, None)


@every_kind
async def test_rejected_keys_are_stored_with_count_and_route(kind: str) -> None:
    """Requests that pass leave nothing, and the route is that of the exchange."""
    policies = KINDS[kind]()
    gateway = Gateway(*policies)
    await gateway.send("ada")
    gateway.block(policies[0], "eve")

    await gateway.send("eve")
    gateway.clock.advance(5)
    await gateway.send("eve")

    [rejected] = gateway.rejections.newest(9)
    assert (rejected.policy, rejected.key, rejected.count) == (policies[0], "eve", 2)
    assert (rejected.first, rejected.last, rejected.route) == (NOON, NOON + 5, "/{path}")


@pytest.mark.parametrize("number", [1, 2])
async def test_key_over_its_limit_is_stored(number: int) -> None:
    """Without an exchange, its route is not known."""
    limits = [policy("1/minute", name="first"), policy("9/minute", name="second")][:number]
    gateway = Gateway(*limits)

    for _ in range(3):
        await gateway.send("eve", observed=False)

    [rejected] = gateway.rejections.newest(9)
    assert (rejected.policy.name, rejected.count, rejected.route) == ("first", 2, None)


@pytest.mark.parametrize("number", [1, 2])
async def test_rejections_need_not_be_stored(number: int) -> None:
    """Without an object for them, a rejection is the same."""
    limits = [policy("1/minute", name="first"), policy("9/minute", name="second")][:number]
    gateway = Gateway(*limits, rejections=None)

    assert [(await gateway.send("eve")).status for _ in range(2)] == [200, 429]


async def test_number_of_rejected_keys_is_bounded() -> None:
    """The key that was rejected longest ago is evicted."""
    gateway = Gateway(policy("1/minute"))
    for client in ("a", "b", "c", "a", "d"):
        await gateway.send(client)
        await gateway.send(client)

    assert [rejected.key for rejected in gateway.rejections.newest(9)] == ["d", "a", "c"]
    assert [rejected.key for rejected in gateway.rejections.newest(1)] == ["d"]
    gateway.rejections.clear()
    assert gateway.rejections.newest(9) == []


def test_sample_of_a_table_has_its_first_and_last_keys() -> None:
    """A part of a large table is read without copying it."""
    limiter = Limiter("9/minute", clock=FakeClock())
    for number in range(9):
        limiter.hit(number)

    assert limiter.sample(9) == list(range(9))
    assert limiter.sample(5) == [0, 1, 2, 8, 7]
    slots = InFlight(2)
    slots.hit("a")
    assert slots.sample(5) == ["a"]
