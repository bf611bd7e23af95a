"""What a request holds until it is over: places that are given back, tokens that are settled."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from starlette.types import Message, Send

from ..exchange import Exchange
from .claim import Ruling
from .limiters import InFlight

_WORDLESS = 10  # events of a stream that may be its head, pings and the like


class Holds:
    """The claims of one request that are only settled at its end.

    Args:
        rulings: Claims that were granted.
    """

    __slots__ = ("_due", "_events", "_rulings")

    def __init__(self, rulings: Sequence[Ruling]) -> None:
        self._rulings = rulings
        self._events = 0
        self._due: list[tuple[Ruling, int]] = []

    def counting(self, send: Send) -> Send:
        """A `send` that counts the events of a stream, if somebody wants to know."""
        if all(ruling.claim.policy.unit != "tokens" for ruling in self._rulings):
            return send

        def send_counting(message: Message) -> Awaitable[None]:
            body = message.get("body")
            if isinstance(body, bytes):
                self._events += body.count(b"data:")
            return send(message)

        return send_counting

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
            amount = _used(exchange, claim.cost, self._events - _WORDLESS) - claim.cost
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


def _used(exchange: Exchange | None, reserved: int, words: int) -> int:
    """The tokens that `exchange` has used, as far as anybody knows.

    Each event of a stream is a token at least, so one that was cut has written `words` or more.
    """
    if exchange is None:  # a WebSocket, or kept out of all measurement
        return reserved
    if exchange.usage is not None:
        read, written = exchange.usage.input, exchange.usage.output
        cut = exchange.usage_source == "partial"
        return read + (max(written, words) if cut else written)
    # A model may have been at work: neither to leave early nor to ask for no usage is for free.
    is_answered = 200 <= exchange.status < 300 or exchange.status == 499
    return max(reserved, words) if exchange.method == "POST" and is_answered else 0
