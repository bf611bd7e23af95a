"""Blocked keys: they are rejected for a time, regardless of their usage."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from .policy import Policy

MAX_BLOCKED_KEYS = 1000


class KeyBlock(NamedTuple):
    """Block of a key.

    Attributes:
        until: End of the block, in seconds since the epoch.
        at: Time of the change.
        by: Author of the change.
        reason: Reason of the change.
    """

    until: float
    at: float
    by: str
    reason: str


class BlockedKeys:
    """Blocked keys of all policies of a gateway.

    A policy without blocked keys reads nothing here, so its requests cost the same.

    Args:
        policies: Policies; more may be appended later.
        max_keys: Maximum number of blocks.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        max_keys: int = MAX_BLOCKED_KEYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policies = policies
        self.max_keys = max_keys
        self.clock = clock
        self._blocks: dict[str, dict[Hashable, KeyBlock]] = {}

    def of(self, policy: Policy) -> Mapping[Hashable, KeyBlock]:
        """Return the blocks of a policy that have not ended."""
        blocks, now = self._blocks.get(policy.name, {}), self.clock()
        for key in [key for key, block in blocks.items() if block.until <= now]:
            self.remove(policy, key)
        return self._blocks.get(policy.name, {})

    def get(self, policy: Policy, key: Hashable) -> KeyBlock | None:
        """Return the block of a key; None if it has none, or if that has ended."""
        block = self._blocks.get(policy.name, {}).get(key)
        return None if block is None or block.until <= self.clock() else block

    def is_full(self) -> bool:
        """Return True if no further key can be blocked."""
        return sum(len(self.of(policy)) for policy in self._policies) >= self.max_keys

    def set(self, policy: Policy, key: Hashable, block: KeyBlock) -> None:
        """Block a key, or remove its block if that has ended."""
        if block.until <= self.clock():
            self.remove(policy, key)
            return
        self._blocks.setdefault(policy.name, {})[key] = block
        policy.block_keys(self._seconds_left)

    def remove(self, policy: Policy, key: Hashable) -> None:
        """Remove the block of a key, if it has one."""
        blocks = self._blocks.get(policy.name, {})
        blocks.pop(key, None)
        if not blocks:
            self._blocks.pop(policy.name, None)
            policy.block_keys(None)

    def _seconds_left(self, policy: Policy, key: Hashable) -> float | None:
        """Return the seconds until the block of a key ends; None if it is not blocked."""
        block = self._blocks.get(policy.name, {}).get(key)
        if block is None:
            return None
        left = block.until - self.clock()
        if left <= 0:
            self.remove(policy, key)
            return None
        return left
