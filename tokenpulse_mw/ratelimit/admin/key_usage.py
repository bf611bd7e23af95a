"""Usage of the keys of a policy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable
from contextlib import suppress
from typing import NamedTuple

import anyio.lowlevel

from ..limiters import Decision, InFlight, Limiter, PlanLimiter, StoredInFlight, StoredLimiter
from ..policy import Policy

MAX_KEYS_READ = 100_000  # of a table; to copy them takes about a millisecond

KEYS_PER_STEP = 100  # then other tasks run


class KeyUsage(NamedTuple):
    """Usage of one key.

    Attributes:
        key: The key.
        used: Requests, tokens, micro-dollars or slots.
        limit: Limit of the key.
        reset_after: Seconds until all of the limit is available again; 0 if that is not known.
    """

    key: Hashable
    used: int
    limit: int
    reset_after: float

    @property
    def share(self) -> float:
        """Share of the limit that is used; 0 for a limit of 0."""
        return self.used / self.limit if self.limit else 0.0


async def usages(policy: Policy) -> AsyncGenerator[KeyUsage, None]:
    """Yield the usage of the keys that this process knows; other tasks run in between."""
    limiter = policy.limiter
    if isinstance(limiter, StoredLimiter):
        for key, used, reset_after in limiter.usage():
            yield KeyUsage(key, used, limiter.limit, reset_after)
    elif not isinstance(limiter, StoredInFlight):
        for number, key in enumerate(limiter.sample(MAX_KEYS_READ), 1):
            if number % KEYS_PER_STEP == 0:
                await anyio.lowlevel.checkpoint()
            usage = _of_decision(key, _peek(limiter, key))
            if usage is not None:
                yield usage


async def usage_of(policy: Policy, key: Hashable) -> KeyUsage | None:
    """Return the usage of a key; None if it is not limited, or its usage cannot be read."""
    limiter = policy.limiter
    if isinstance(limiter, StoredLimiter):
        with suppress(ValueError):  # the key cannot be shared
            return _of_decision(key, await limiter.peek(key, 0))
        return None
    if isinstance(limiter, StoredInFlight):
        return None
    return _of_decision(key, _peek(limiter, key))


def is_partial(policy: Policy) -> bool:
    """Return True if the table has, or may have, more keys than are read."""
    limiter = policy.limiter
    if not isinstance(limiter, Limiter):
        return False
    is_file = limiter.storage_kind == "workers"  # to count its keys would delay requests
    return (limiter.max_keys if is_file else len(limiter)) > MAX_KEYS_READ


def _peek(limiter: Limiter | InFlight, key: Hashable) -> Decision | None:
    """Return the state of a key; None if it is not limited, or its rate is not known."""
    try:
        if isinstance(limiter, PlanLimiter) and not limiter.is_limited(key):
            return None
        return limiter.peek(key, 0)
    except Exception:  # noqa: BLE001 - requests of this key report the error
        return None


def _of_decision(key: Hashable, decision: Decision | None) -> KeyUsage | None:
    if decision is None:
        return None
    used = decision.limit - decision.remaining
    return KeyUsage(key, used, decision.limit, decision.reset_after)
