"""How far the keys of token limits have used what they may: a source of quotas for alerts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable

import anyio.lowlevel

from .keys.address import format_key
from .limiters import Limiter
from .policy import Policy

Budget = tuple[str, int, int]

_AT_ONCE = 1000  # keys that are looked at before others may go on
_WORTH_TELLING = 0.5


def budgets(policies: Iterable[Policy]) -> Callable[[], Awaitable[list[Budget]]] | None:
    """A function that gives (key, used, limit) of the keys that have used half of their tokens.

    It knows policies that limit tokens (`Policy(tokens=)`) in this process; what several
    processes share is known only to their storage. None where there is no such policy. Keys that
    are secret are given as the hash that they are kept as.
    """
    limiters = [
        policy.limiter
        for policy in policies
        if policy.unit == "tokens" and isinstance(policy.limiter, Limiter)
    ]
    if not limiters:
        return None

    async def used() -> list[Budget]:
        found: list[Budget] = []
        for limiter in limiters:
            for number, key in enumerate(limiter, 1):
                if number % _AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
                tokens = limiter.limit - limiter.peek(key, 0).remaining
                if tokens >= limiter.limit * _WORTH_TELLING:
                    found.append((_shown(key), tokens, limiter.limit))
        return found

    return used


def _shown(key: Hashable) -> str:
    """A key as people know it: an address or network as such, a hash in hexadecimal."""
    if isinstance(key, tuple):
        return " ".join(_shown(part) for part in key if part is not None)
    if isinstance(key, bytes):
        return format_key(key) or key.hex()
    return str(key)
