"""What a request holds until it is over: places that are given back, tokens that are settled."""

from __future__ import annotations

from collections.abc import Sequence

from ..exchange import Exchange
from .claim import Ruling
from .limiters import InFlight


class Holds:
    """The claims of one request that are only settled at its end.

    Args:
        rulings: Claims that were granted.
    """

    __slots__ = ("_due", "_rulings")

    def __init__(self, rulings: Sequence[Ruling]) -> None:
        self._rulings = rulings
        self._due: list[tuple[Ruling, int]] = []

    def finished(self, exchange: Exchange | None) -> None:
        """Give back places, and charge what `exchange` has used in place of what was reserved.

        Once is enough: what was settled before is not settled again. Where nobody knows what was
        used, the reserve stays charged.
        """
        rulings, self._rulings = self._rulings, ()
        for ruling in rulings:
            claim = ruling.claim
            if isinstance(claim.policy.local, InFlight):
                claim.policy.local.release(claim.key, claim.cost)
                continue
            amount = _used(exchange, claim.cost) - claim.cost
            if claim.policy.shared:
                self._due.append((ruling, amount))
            else:
                claim.policy.local.charge(claim.key, amount, since=ruling.at)

    async def close(self) -> None:
        """Settle what is not settled yet, and with shared storages, which has to be waited for."""
        self.finished(None)
        due, self._due = self._due, []
        for (claim, decision, at), amount in due:
            if amount:
                charge = claim.policy.remote.charge
                await charge(claim.key, amount, since=at, degraded=decision.degraded)


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
