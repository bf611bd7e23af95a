"""Usage of limits of tokens and money by key, as a source of quotas for alerts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable
from decimal import Decimal

import anyio.lowlevel

from .keys.address import format_key
from .limiters import CURRENCY, MICROS, Decision, Limiter, PlanLimiter, StoredLimiter
from .policy import Policy

# Key, used and limit in tokens; for money also the tenant, which is not known, and the unit.
Budget = tuple[str, int, int] | tuple[str, Decimal, Decimal, None, str]

_KEYS_PER_CHECKPOINT = 250  # then other tasks run
_MIN_SHARE = 0.5


def budgets(policies: Iterable[Policy]) -> Callable[[], Awaitable[list[Budget]]]:
    """Return a function that lists (key, used, limit) of keys that used half of their limit.

    Only policies that limit tokens (`Policy(tokens=)`) or money (`Policy("20 USD/day")`) are
    included. Rows of money have dollars, and after the limit None and the unit "USD". Of a
    `SharedLimiter`, the keys are those of `SharedLimiter.usage`: at most 1,000 that this process
    has used, with the usage of all processes in its last decision on each. A list of policies may
    grow later. Secret keys are shown as their hash.
    """

    async def used() -> list[Budget]:
        rows: list[Budget] = []
        for policy in [policy for policy in policies if policy.unit in ("tokens", CURRENCY)]:
            limiter, unit = policy.limiter, policy.unit
            if isinstance(limiter, StoredLimiter):
                rows += [_row(key, used, limiter.limit, unit) for key, used in limiter.usage()]
            if not isinstance(limiter, Limiter):
                continue
            for number, key in enumerate(limiter, 1):
                if number % _KEYS_PER_CHECKPOINT == 0:
                    await anyio.lowlevel.checkpoint()
                decision = _usage(limiter, key)
                if decision is not None:
                    amount = decision.limit - decision.remaining
                    if decision.limit and amount >= decision.limit * _MIN_SHARE:
                        rows.append(_row(key, amount, decision.limit, unit))
        return rows

    return used


def _row(key: Hashable, used: int, limit: int, unit: str) -> Budget:
    if unit == CURRENCY:
        return _key_text(key), Decimal(used) / MICROS, Decimal(limit) / MICROS, None, unit
    return _key_text(key), used, limit


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
