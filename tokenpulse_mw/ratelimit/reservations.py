"""Slots and tokens that a request holds until its response ends."""

from __future__ import annotations

from collections.abc import Sequence

from ..exchange import Exchange
from .limiters import InFlight, Limiter, StoredInFlight
from .policy import ChargeResult

_FREE_EVENTS = 10  # events of a stream without a token: its first ones, pings and the like


class Reservations:
    """Charges of one request that are settled when its response ends.

    Args:
        results: Allowed charges.
    """

    __slots__ = ("_results", "_shared")

    def __init__(self, results: Sequence[ChargeResult]) -> None:
        self._results = results
        self._shared: list[tuple[ChargeResult, int]] = []

    @property
    def has_slots(self) -> bool:
        """True if a slot is held."""
        return any(result.charge.policy.holds_slots for result in self._results)

    @property
    def needs_close(self) -> bool:
        """True if a charge is not settled: without an exchange, or if its limiter awaits."""
        return bool(self._results or self._shared)

    def finished(self, exchange: Exchange | None) -> None:
        """Release slots, and replace reserved tokens by the usage of `exchange`.

        Only the first call has an effect. Without an exchange the reserve stays charged.

        Raises:
            Exception: A limiter failed; the others are settled.
        """
        results, self._results = self._results, ()
        failure: Exception | None = None
        for result in results:
            charge = result.charge
            policy, key, cost, clears = charge
            limiter = policy.limiter
            if limiter.clears != clears:
                continue
            try:
                if isinstance(limiter, InFlight | StoredInFlight):
                    limiter.release(key, cost)
                    continue
                amount = _used_tokens(exchange, cost) - cost
                if isinstance(limiter, Limiter):
                    limiter.charge(key, amount, since=result.at)
                else:
                    self._shared.append((result, amount))
            except Exception as error:  # noqa: BLE001 - the other slots are released
                failure = error
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Settle the remaining charges, and those in shared storages."""
        self.finished(None)
        shared, self._shared = self._shared, []
        for (charge, decision, at), amount in shared:
            await charge.charge_shared(amount, since=at, degraded=decision.degraded)


def _used_tokens(exchange: Exchange | None, reserved: int) -> int:
    """Return the tokens that `exchange` has used, or an estimate.

    Each event of a stream carries at least one token, so a truncated stream used at least as many
    tokens as it has events. Events are counted after decoding: neither the content coding nor the
    chunks change the charge.
    """
    if exchange is None:  # a WebSocket
        return reserved
    usage, written = exchange.usage, exchange.events - _FREE_EVENTS
    if usage is not None:
        is_partial = exchange.usage_source == "partial"
        used = usage.input + (max(usage.output, written) if is_partial else usage.output)
        return max(used, reserved) if exchange.usage_doubtful else used
    # A model may have generated tokens: hanging up, or not requesting the usage, is not free.
    may_have_used = 200 <= exchange.status < 300 or exchange.status == 499
    return max(reserved, written) if exchange.method == "POST" and may_have_used else 0
