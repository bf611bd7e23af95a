"""Usage of token limits as quotas."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tokenpulse_mw import InFlight, Limiter, PlanLimiter, Policy, SharedLimiter, keys
from tokenpulse_mw.alerts import AlertEngine, budget
from tokenpulse_mw.ratelimit import budgets, quotas
from tokenpulse_mw.ratelimit.keys.address import network_grouper, pack

from ..support.clock import FakeClock
from ..support.servers import Server
from ..support.waiting import PATIENCE


@pytest.mark.anyio
async def test_only_keys_that_used_half_of_their_tokens_are_listed(clock: FakeClock) -> None:
    """A key below half of its limit is left out."""
    limiter = Limiter("100/day", clock=clock)
    for key, tokens in {"ada": 49, "bob": 50, "eve": 100}.items():
        limiter.hit(key, tokens)
    used = quotas([Policy(limiter, tokens=10, key=keys.annotation("tenant"))])

    assert await used() == [("bob", 50, 100), ("eve", 100, 100)]


@pytest.mark.anyio
async def test_quota_of_a_key_is_that_of_its_plan() -> None:
    """The limit is that of the key; a key without limit or with an unknown rate is left out."""
    plans: dict[str, str | None] = dict.fromkeys(["ada", "bob", "eve", "kim"], "20/day")
    limiter = PlanLimiter(plans.__getitem__)
    for key in plans:
        limiter.hit(key, 10)
    plans |= {"ada": "100/day", "eve": None, "kim": "fast"}
    used = quotas([Policy(limiter, tokens=10)])

    assert await used() == [("bob", 10, 20)]


@pytest.mark.anyio
async def test_key_with_expired_window_is_not_listed(clock: FakeClock) -> None:
    """An expired entry that is still in the table counts as unused."""
    limiter = Limiter("100/minute", clock=clock)
    limiter.hit("ada", 100)
    used = quotas([Policy(limiter, tokens=10)])
    clock.advance(61)

    assert await used() == []


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (bytes([192, 0, 2, 7]), "192.0.2.7"),
        (network_grouper(64)(pack("2001:db8::7") or b""), "2001:db8::/64"),
        (
            ("acme", network_grouper(56)(pack("2001:db8:0:1ff::7") or b"")),
            "acme 2001:db8:0:100::/56",
        ),
        (bytes.fromhex("20010db800000001"), "20010db800000001"),
        (("acme", None, bytes([192, 0, 2, 7])), "acme 192.0.2.7"),
        (7, "7"),
    ],
)
@pytest.mark.anyio
async def test_key_is_listed_in_readable_form(key: object, text: str) -> None:
    """Addresses are listed as text, and hashes in hexadecimal."""
    limiter = Limiter("10/minute")
    limiter.hit(key, 10)
    used = quotas([Policy(limiter, tokens=1)])

    assert await used() == [(text, 10, 10)]


@pytest.mark.anyio
async def test_large_table_is_listed_completely() -> None:
    """The checkpoints for other tasks skip no key."""
    limiter = Limiter("10/minute", max_keys=3000)
    for number in range(2500):
        limiter.hit(number, 10 if number % 1000 == 0 else 1)
    used = quotas([Policy(limiter, tokens=1)])

    assert await used() == [("0", 10, 10), ("1000", 10, 10), ("2000", 10, 10)]


@pytest.mark.anyio
async def test_policies_without_token_limit_have_no_budgets() -> None:
    """Limits of requests and of concurrent requests are not listed."""
    limiter = Limiter("10/minute")
    limiter.hit("ada", 10)

    assert await quotas([Policy(limiter), Policy(InFlight(1), name="slots")])() == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_budget_is_the_usage_of_all_processes(
    redis: Server, anyio_backend: str
) -> None:
    """Each process lists the keys that it has used, with what others have used until then."""
    first, second = (
        SharedLimiter("100/day", storage=f"redis://{redis.place}", timeout=PATIENCE)
        for _ in range(2)
    )
    await first.hit("ada", 30)
    await first.hit("bob", 90)
    await second.hit("ada", 30)
    await second.charge("ada", 5)

    assert await quotas([Policy(first, tokens=1)])() == [("bob", 90, 100)]
    assert await quotas([Policy(second, tokens=1)])() == [("ada", 65, 100)]
    await first.hit("ada", 0)
    await first.reset("bob")
    assert await quotas([Policy(first, tokens=1)])() == [("ada", 65, 100)]
    first.clear()
    assert await quotas([Policy(first, tokens=1)])() == []


@pytest.mark.anyio
async def test_budget_of_a_decision_without_the_storage_is_not_listed() -> None:
    """Such a decision does not contain the usage of other processes."""
    limiter = SharedLimiter("10/minute", storage="redis://127.0.0.1:1")
    assert (await limiter.hit("ada", 10)).degraded
    await limiter.charge("ada", 5, degraded=True)

    assert await quotas([Policy(limiter, tokens=1)])() == []


@pytest.mark.anyio
async def test_budget_of_money_is_in_dollars(clock: FakeClock) -> None:
    """Micro-dollars are not readable; a blocked key has no share of a limit."""
    limiter = Limiter("20 USD/day", clock=clock)
    limiter.hit("ada", 9_990_000)
    limiter.hit("bob", 10_050_000)
    blocked = Limiter("0 USD/day", clock=clock)
    blocked.charge("eve", 5)
    shared = SharedLimiter("2 USD/day", storage="redis://127.0.0.1:1", clock=clock)
    await shared.hit("ada", 2_000_000)
    tokens = Limiter("10/day", clock=clock)
    tokens.hit("bob", 10)
    policies = [
        *(Policy(limiter, name=name) for limiter, name in ((limiter, "a"), (blocked, "b"))),
        Policy(shared, name="c"),
        Policy(tokens, name="d", tokens=1),
    ]
    clock.advance(60)

    assert await budgets(policies)() == [("bob", Decimal("10.05"), Decimal(20), "a", 86_340)]
    assert await quotas(policies)() == [("bob", 10, 10)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_budget_of_money_has_the_end_of_its_window(
    redis: Server, anyio_backend: str
) -> None:
    """The storage keeps the window, and each process lists the keys that it has used."""
    limiter = SharedLimiter("2 USD/day", storage=f"redis://{redis.place}", timeout=PATIENCE)
    await limiter.hit("ada", 1_500_000)

    [(*row, reset_after)] = await budgets([Policy(limiter, name="dollars")])()

    assert row == ["ada", Decimal("1.5"), Decimal(2), "dollars"]
    assert 0 < reset_after <= 86_400


@pytest.mark.anyio
async def test_alert_has_the_dollars_of_a_budget(clock: FakeClock) -> None:
    """The rows are budgets of the rule `budget`."""
    limiter = Limiter("20 USD/day", clock=clock)
    limiter.hit("bob", 19_500_000)
    engine = AlertEngine([budget(budgets([Policy(limiter, name="dollars")]))], [], clock=clock)

    (event,) = await engine.evaluate()

    assert event.fingerprint == "budget:dollars:bob"
    assert event.finding.metadata["used"] == 19.5
