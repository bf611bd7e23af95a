"""Alert rules: functions that return findings from the traffic."""

from __future__ import annotations

from ..traffic.statistics import wilson_lower_bound
from .budget import Budget, budget
from .credential_rejected import credential_rejected
from .error_rates import error_spike, high_error_rate
from .inhibition import inhibited, outages
from .latency import high_latency
from .provider_down import provider_down
from .quota import Quota, quota_exceeded
from .rate_limits import rate_limit, rate_limit_exceeded
from .rule import Rule, rule_name
from .stalled_request import StalledRequest, idle_limits, stalled_request
from .traffic_spike import traffic_spike
from .upstream_quota_low import UpstreamQuotaLow, upstream_quota_low

__all__ = [
    "Budget",
    "Quota",
    "Rule",
    "StalledRequest",
    "UpstreamQuotaLow",
    "budget",
    "credential_rejected",
    "default_rules",
    "error_spike",
    "high_error_rate",
    "high_latency",
    "idle_limits",
    "inhibited",
    "outages",
    "provider_down",
    "quota_exceeded",
    "rate_limit",
    "rate_limit_exceeded",
    "rule_name",
    "stalled_request",
    "traffic_spike",
    "upstream_quota_low",
    "wilson_lower_bound",
]


def default_rules() -> list[Rule]:
    """Return new rules: all except `quota_exceeded` and `budget`, which need a source."""
    return [
        rate_limit,
        error_spike,
        provider_down,
        credential_rejected,
        traffic_spike,
        high_error_rate,
        high_latency,
        rate_limit_exceeded,
        stalled_request(),
        upstream_quota_low(),
    ]
