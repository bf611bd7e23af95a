"""Slots, tokens and money that a request holds until its response ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..exchange import SWITCHING_PROTOCOLS, Exchange
from .limiters import CURRENCY, InFlight, Limiter, StoredInFlight, from_nanos
from .policy import ChargeResult, Policy
from .weights import TokenWeights

_NO_DEBTS: Mapping[int, int] = {}
_FREE_EVENTS = 10  # events of a stream without a token: its first ones, pings and the like


class Reservations:
    """Charges of one request that are settled when its response ends.

    Those of a WebSocket are settled with the first response of a model over it, if usage is metered
    there; the later responses are charged, too.

    Args:
        results: Allowed charges.
    """

    __slots__ = ("_debts", "_is_settled", "_results", "_shared")

    def __init__(self, results: Sequence[ChargeResult]) -> None:
        self._results = results
        self._is_settled = False
        self._debts: Mapping[int, int] = _NO_DEBTS  # in shared storages, by index of the result
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
        """Release slots, and replace the reserve by the usage or the cost of `exchange`.

        Only the first call has an effect. Without an exchange the reserve stays charged.

        Raises:
            Exception: A limiter failed; the others are settled.
        """
        results, self._results = self._results, ()
        failure: Exception | None = None
        for index, result in enumerate(results):
            charge = result.charge
            policy, key, cost, clears = charge
            limiter = policy.limiter
            if limiter.clears != clears:
                continue
            try:
                if isinstance(limiter, InFlight | StoredInFlight):
                    limiter.release(key, cost)
                    continue
                amount = _used(policy, exchange, cost) - cost + self._debts.get(index, 0)
                if isinstance(limiter, Limiter):
                    limiter.charge(key, amount, since=result.at)
                else:
                    self._shared.append((result, amount))
            except Exception as error:  # noqa: BLE001 - the other slots are released
                failure = error
        if failure is not None:
            raise failure

    def charge_response(self, exchange: Exchange) -> None:
        """Charge one response of a model over a WebSocket; the reserve is that of the first one.

        Charges in shared storages, which have to be awaited, are added up until `close`.

        Raises:
            Exception: A limiter failed; the others are charged.
        """
        is_settled, self._is_settled = self._is_settled, True
        failure: Exception | None = None
        for index, result in enumerate(self._results):
            policy, key, cost, clears = result.charge
            limiter = policy.limiter
            if isinstance(limiter, InFlight | StoredInFlight):
                continue
            amount = _used(policy, exchange, cost)
            if not is_settled and limiter.clears == clears:
                amount -= cost
            if not isinstance(limiter, Limiter):
                self._debts = {**self._debts, index: self._debts.get(index, 0) + amount}
                continue
            try:
                limiter.charge(key, amount, since=result.at)
            except Exception as error:  # noqa: BLE001 - the others are charged
                failure = error
        if failure is not None:
            raise failure

    async def close(self) -> None:
        """Settle the remaining charges, and those in shared storages."""
        self.finished(None)
        shared, self._shared = self._shared, []
        for (charge, decision, at), amount in shared:
            await charge.charge_shared(amount, since=at, degraded=decision.degraded)


def _used(policy: Policy, exchange: Exchange | None, reserved: int) -> int:
    """Return what `exchange` has used in the unit of the policy."""
    if exchange is None:  # the end of a WebSocket
        return reserved
    if policy.unit == CURRENCY:
        return _used_money(exchange, reserved, missing_is_free=policy.on_missing_cost == "allow")
    return _used_tokens(exchange, reserved, policy.weights)


def _used_money(exchange: Exchange, reserved: int, *, missing_is_free: bool) -> int:
    """Return the micro-dollars that `exchange` has cost, or at least the reserve.

    A cost of which a part may be missing does not lower the charge.
    """
    nanos = exchange.cost_nanos
    if nanos is not None and nanos >= 0:
        is_partial = exchange.usage_source == "partial"
        cost = from_nanos(_with_all_events(nanos, exchange) if is_partial else nanos)
        may_be_low = is_partial or exchange.usage_doubtful or exchange.cost_is_minimum
        return max(cost, reserved) if may_be_low else cost
    if exchange.cost_source == "missing":  # a model has responded
        return 0 if missing_is_free else reserved
    return reserved if _may_have_used(exchange) else 0


def _with_all_events(nanos: int, exchange: Exchange) -> int:
    """Return the cost of a truncated stream whose later events have the same price per token."""
    usage, written = exchange.usage, exchange.events - _FREE_EVENTS
    if usage is None or not usage.total or written <= usage.output:
        return nanos
    return -(-nanos * (usage.input + written) // usage.total)


def _used_tokens(exchange: Exchange, reserved: int, weights: TokenWeights | None) -> int:
    """Return the tokens that `exchange` has used, or an estimate.

    Each event of a stream carries at least one token, so a truncated stream used at least as many
    tokens as it has events. Events are counted after decoding: neither the content coding nor the
    chunks change the charge.
    """
    usage, written = exchange.usage, exchange.events - _FREE_EVENTS
    if usage is not None:
        is_partial = exchange.usage_source == "partial"
        output = max(usage.output, written) if is_partial else usage.output
        used = usage.input + output if weights is None else weights.total(usage, output)
        return max(used, reserved) if exchange.usage_doubtful else used
    if not _may_have_used(exchange):
        return 0
    return max(reserved, written if weights is None else weights.written(written))


def _may_have_used(exchange: Exchange) -> bool:
    """Return True if a model may have responded: hanging up, or hiding the usage, is not free."""
    if exchange.status == SWITCHING_PROTOCOLS:  # a response of a model over a WebSocket
        return True
    succeeded = 200 <= exchange.status < 300 or exchange.status == 499
    return exchange.method == "POST" and succeeded
