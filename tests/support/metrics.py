"""Values of metrics."""

from __future__ import annotations

from tokenpulse_mw import HttpMetrics


def decided(metrics: HttpMetrics, policy: str) -> dict[str, float]:
    """Return the number of decisions of `policy`, by decision; without those that are 0."""
    name = "tokenpulse_rate_limit_decisions_total"
    counts = {
        decision: metrics.registry.get_sample_value(name, {"policy": policy, "decision": decision})
        for decision in ("allowed", "limited", "shadow", "error")
    }
    return {decision: count for decision, count in counts.items() if count}
