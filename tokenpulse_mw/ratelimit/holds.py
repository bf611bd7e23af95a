"""What a request holds until it is over: places that are given back, tokens that are settled."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..exchange import Exchange
from .claim import Claim
from .limiters import InFlight
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

    def finished(self, exchange: Exchange | None) -> None:
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

    async def close(self) -> None:
        """Settle what is not settled yet, and with shared storages, which has to be waited for."""
        self.finished(None)
        due, self._due = self._due, []
        for limiter, key, amount, since in due:
            if amount:
                await limiter.charge(key, amount, since=since)


def _used(exchange: Exchange | None, reserved: int) -> int:
    """The tokens that `exchange` has used, as far as anybody knows."""
    if exchange is None:  # a WebSocket, or kept out of all measurement
        return reserved
    if exchange.usage is not None:
        counts = (exchange.usage.input, exchange.usage.output)
        if all(type(count) is int and count >= 0 for count in counts):  # not so if annotated amiss
            return sum(counts)
    # A model may have been at work: neither to leave early nor to ask for no usage is for free.
    is_answered = 200 <= exchange.status < 300 or exchange.status == 499
    return reserved if exchange.method == "POST" and is_answered else 0
