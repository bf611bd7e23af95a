"""Charges of one request in shared limiters, those in the same storage in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from .limiters import Decision
from .policy import Charge, ChargeResult, Policy
from .shared import SharedHit, SharedLimiter, hit_together

PreparedCharge = tuple[Charge, SharedHit]


def grouped(charges: Sequence[Charge]) -> list[list[Charge]]:
    """Return groups of charges that one storage can decide together.

    The group with a charge that cannot be refunded is the last one.
    """
    groups: dict[object, list[Charge]] = {}
    for number, charge in enumerate(charges):
        limiter = charge.policy.limiter
        place = limiter.place if isinstance(limiter, SharedLimiter) else None
        groups.setdefault(place or number, []).append(charge)
    return sorted(
        groups.values(),
        key=lambda group: not all(charge.policy.remote.supports_refund for charge in group),
    )


def prepared(
    charges: Sequence[Charge],
    *,
    enforced: Collection[str],
    failed: Callable[[Policy, Exception], object],
) -> list[PreparedCharge]:
    """Return the charges of a group with their hits, without those that cannot be shared.

    Args:
        charges: Charges of a group of several.
        enforced: Names of the policies that reject requests.
        failed: Function that is called with a policy whose key cannot be shared, and the error.
    """
    hits = []
    for charge in charges:
        policy, limiter = charge.policy, charge.policy.limiter
        assert isinstance(limiter, SharedLimiter)
        try:
            hit = SharedHit(limiter, charge.key, charge.cost, enforced=policy.name in enforced)
        except Exception as error:  # noqa: BLE001 - a failing policy must not fail the request
            failed(policy, error)
        else:
            hits.append((charge, hit))
    return hits


async def apply_together(charges: Sequence[PreparedCharge]) -> list[ChargeResult] | None:
    """Apply the charges of a group, or none of them if one that is enforced is rejected.

    Returns:
        Results, with a cost of 0 for the charges that are not applied; None if the storage cannot
        decide the charges together.
    """
    for charge, hit in charges:
        refusal = hit.refusal() if hit.enforced else None
        if refusal is not None:
            return [_result(charge, hit, refusal)]
    decisions = await hit_together([hit for _, hit in charges])
    if decisions is None:
        return None
    results = [_result(*item, decision) for item, decision in zip(charges, decisions, strict=False)]
    counted = all(
        decision.allowed or decision.degraded or not hit.enforced
        for (_, hit), decision in zip(charges, decisions, strict=False)
    )
    return results if counted else [_not_applied(result) for result in results]


def _result(charge: Charge, hit: SharedHit, decision: Decision) -> ChargeResult:
    return ChargeResult.of_shared(charge, charge.policy.named(decision), asked=hit.at)


def _not_applied(result: ChargeResult) -> ChargeResult:
    """Return a result with a cost of 0, so that a rollback refunds nothing."""
    return result._replace(charge=result.charge._replace(cost=0))
