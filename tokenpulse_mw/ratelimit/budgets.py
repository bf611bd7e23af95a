"""Usage of limits of tokens and money by key, as sources of quotas and budgets for alerts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from decimal import Decimal

import anyio.lowlevel

from .keys.address import format_key
from .limiters import CURRENCY, MICROS, Decision, Limiter, PlanLimiter, StoredLimiter
from .policy import Policy

# Key, used and limit in tokens.
TokenQuota = tuple[str, int, int]

# Key, used and limit in dollars, name of the policy, and seconds until the window ends.
MoneyBudget = tuple[str, Decimal, Decimal, str, float]

_KEYS_PER_CHECKPOINT = 250  # then other tasks run
_MIN_SHARE = 0.5


def quotas(policies: Iterable[Policy]) -> Callable[[], Awaitable[list[TokenQuota]]]:
    """Return a function that lists (key, used, limit) of keys that used half of their limit.

    Only policies that limit tokens (`Policy(tokens=)`) are included; `budgets` has those of money.
    Of a `SharedLimiter`, the keys are those of `SharedLimiter.usage`: at most 1,000 that this
    process has used, with the usage of all processes in its last decision on each. A list of
    policies may grow later. Secret keys are shown as their hash.
    """

    async def used() -> list[TokenQuota]:
        return [
            (_key_text(key), amount, limit)
            async for _, key, amount, limit, _ in _usages(policies, "tokens")
        ]

    return used


def budgets(policies: Iterable[Policy]) -> Callable[[], Awaitable[list[MoneyBudget]]]:
    """Return a function that lists the keys that used half of their limit of money.

    Only policies that limit money (`Policy("20 USD/day")`) are included. A row is (key, used,
    limit, name of the policy, seconds until the window ends), with dollars as `Decimal`; reserved
    money counts as used. The keys are those that `quotas` lists for tokens.
    """

    async def used() -> list[MoneyBudget]:
        return [
            (_key_text(key), _dollars(amount), _dollars(limit), policy.name, reset_after)
            async for policy, key, amount, limit, reset_after in _usages(policies, CURRENCY)
        ]

    return used


async def _usages(
    policies: Iterable[Policy], unit: str
) -> AsyncIterator[tuple[Policy, Hashable, int, int, float]]:
    """Yield policy, key, used, limit and seconds until the reset, of keys that used half."""
    for policy in [policy for policy in policies if policy.unit == unit]:
        limiter = policy.limiter
        if isinstance(limiter, StoredLimiter):
            for key, used, reset_after in limiter.usage():
                yield policy, key, used, limiter.limit, reset_after
        if not isinstance(limiter, Limiter):
            continue
        for number, key in enumerate(limiter, 1):
            if number % _KEYS_PER_CHECKPOINT == 0:
                await anyio.lowlevel.checkpoint()
            decision = _usage(limiter, key)
            if decision is not None:
                used = decision.limit - decision.remaining
                if decision.limit and used >= decision.limit * _MIN_SHARE:
                    yield policy, key, used, decision.limit, decision.reset_after


def _dollars(micros: int) -> Decimal:
    return Decimal(micros) / MICROS


def _usage(limiter: Limiter, key: Hashable) -> Decision | None:
    """Return the usage of `key`; None if it is not limited, or its rate is not known."""
    if isinstance(limiter, PlanLimiter):
        try:
            if not limiter.is_limited(key):
                return None
        except Exception:  # noqa: BLE001 - requests of this key report the error
            return None
    return limiter.peek(key, 0)


def _key_text(key: Hashable) -> str:
    """Return a key in readable form: a packed address as text, a hash in hexadecimal."""
    if isinstance(key, tuple):
        return " ".join(_key_text(part) for part in key if part is not None)
    if isinstance(key, bytes):
        return format_key(key) or key.hex()
    return str(key)
