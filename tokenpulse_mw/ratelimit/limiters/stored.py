"""Interfaces of the limiters that count in a storage, without the driver of the storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

from .decision import Decision
from .rate import Rate


class StoredLimiter(ABC):
    """Limiter of requests or tokens in a storage: `SharedLimiter`."""

    limit: int
    window: int
    period: str | None
    timezone: str | None
    strategy: str
    supports_refund: bool
    counters: object
    clears: int
    storage_kind: str
    clock: Callable[[], float]

    @property
    @abstractmethod
    def rate(self) -> Rate:
        """Present rate."""

    @abstractmethod
    def set_limit(self, limit: str, *, seconds: float | None = None) -> None:
        """Change the limit of this process."""

    @abstractmethod
    def check_limit(self, limit: str, *, seconds: float | None = None) -> Rate | None:
        """Return the rate that `set_limit` would set, or None for a block."""

    @abstractmethod
    def blocked_for(self) -> float | None:
        """Return the seconds until a block ends; None without one."""

    @abstractmethod
    async def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count `cost` for `key` if it is within the limit."""

    @abstractmethod
    async def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without counting."""

    @abstractmethod
    async def reset(self, key: Hashable) -> None:
        """Remove the usage of `key`."""

    @abstractmethod
    async def charge(
        self, key: Hashable, amount: int, *, since: float | None = None, degraded: bool = False
    ) -> None:
        """Correct the cost of a hit, regardless of the limit."""

    @abstractmethod
    def clear(self) -> None:
        """Remove the usage that this process has counted."""

    @abstractmethod
    def usage(self) -> list[tuple[Hashable, int, float]]:
        """Return (key, used, seconds until the window ends) of keys that used half or more."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections of the running event loop."""


class StoredInFlight(ABC):
    """Limiter of concurrent requests in a storage: `SharedInFlight`."""

    limit: int
    window: None
    supports_refund: bool
    counters: object
    clears: int
    storage_kind: str

    @abstractmethod
    async def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Take `cost` slots for `key` if they are free."""

    @abstractmethod
    def release(self, key: Hashable, cost: int = 1) -> None:
        """Release `cost` slots of `key`, without waiting for the storage."""

    @abstractmethod
    def clear(self) -> None:
        """Release the slots of this process."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
