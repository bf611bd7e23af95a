"""What a request holds until it is over: places that are given back, tokens that are settled."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..exchange import Exchange
from .claim import Claim
from .in_flight import InFlight
from .shared import SharedLimiter


class Holds:
    """The claims of one request that are only settled at its end.

    Args:
        claims: Claims that were granted, each with the time of its limiter's clock.
    """

    __slots__ = ("_claims", "_due")

    def __init__(self, claims: Sequence[tuple[Claim, float]]) -> None:
        self._claims = claims
        self._due: list[tuple[SharedLimiter, Hashable, int, float]] = []

    def settle(self, exchange: Exchange | None) -> None:
        """Give back places, and charge what `exchange` has used in place of what was reserved.

        Once is enough: what was settled before is not settled again. Where nobody knows what was
        used, the reserve stays charged.
        """
        claims, self._claims = self._claims, ()
        for claim, since in claims:
            limiter = claim.policy.limiter
            if isinstance(limiter, InFlight):
                limiter.release(claim.key, claim.cost)
                continue
            amount = _used(exchange, claim.cost) - claim.cost
            if isinstance(limiter, SharedLimiter):
                self._due.append((limiter, claim.key, amount, since))
            else:
                limiter.charge(claim.key, amount, since=since)

    async def pay(self) -> None:
        """Settle with shared storages, which has to be waited for."""
        due, self._due = self._due, []
        for limiter, key, amount, since in due:
            if amount:
                await limiter.charge(key, amount, since=since)


def _used(exchange: Exchange | None, reserved: int) -> int:
    """The tokens that `exchange` has used, as far as anybody knows."""
    if exchange is None:  # a WebSocket, or kept out of all measurement
        return reserved
    if exchange.usage is not None:
        return exchange.usage.input + exchange.usage.output
    cut = exchange.outcome != "complete" and (exchange.status < 300 or exchange.status == 499)
    if exchange.usage_source == "missing" or cut:
        return reserved  # a model was at work: to leave early must not be for nothing
    return 0
