"""What a request holds until it is over: places that are given back, tokens that are settled."""

from __future__ import annotations

from collections.abc import Sequence

from ..exchange import Exchange
from .limiters import InFlight
from .policy import ChargeResult

_HEAD = 10  # events of a stream that may carry no token: its head, pings and the like


class Reservations:
    """The claims of one request that are only settled at its end.

    Args:
        rulings: Claims that were granted.
    """

    __slots__ = ("_due", "_rulings")

    def __init__(self, rulings: Sequence[ChargeResult]) -> None:
        self._rulings = rulings
        self._due: list[tuple[ChargeResult, int]] = []

    def finished(self, exchange: Exchange | None) -> None:
        """Give back places, and charge what `exchange` has used in place of what was reserved.

        Once is enough: what was settled before is not settled again. Where nobody knows what was
        used, the reserve stays charged.
        """
        rulings, self._rulings = self._rulings, ()
        for ruling in rulings:
            claim = ruling.charge
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
    """Return the tokens that `exchange` has used, as far as they are known.

    Each event of a stream carries a token at least, so one that was cut has written as many. The
    meter counts them as it decodes them, so neither coding nor chunking changes the charge.
    """
    if exchange is None:  # a WebSocket
        return reserved
    usage, written = exchange.usage, exchange.events - _HEAD
    if usage is not None:
        cut = exchange.usage_source == "partial"
        used = usage.input + (max(usage.output, written) if cut else usage.output)
        return max(used, reserved) if exchange.usage_doubtful else used
    # A model may have been at work: leaving early, or not asking for the usage, is not free.
    is_answered = 200 <= exchange.status < 300 or exchange.status == 499
    return max(reserved, written) if exchange.method == "POST" and is_answered else 0
