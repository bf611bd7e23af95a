"""Metric families: names, types, help texts, labels and buckets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple

# The default buckets of prom-client (Node.js), extended for the duration of model responses.
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# An evaluation of the alert rules normally takes milliseconds.
EVALUATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# Recommended by OpenTelemetry for gen_ai.server.time_per_output_token.
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)


def check_buckets(buckets: Sequence[float]) -> tuple[float, ...]:
    """Return `buckets` as a tuple of upper bounds.

    Raises:
        ValueError: `buckets` is empty, or is not a strictly ascending sequence of finite numbers
            above 0.
    """
    bounds = tuple(buckets) if isinstance(buckets, Sequence) else ()
    numbers = all(type(bound) in (int, float) and 0 < bound < inf for bound in bounds)
    if not bounds or not numbers or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(
            "buckets must be a non-empty, strictly ascending sequence of finite numbers of seconds "
            f"above 0, got {buckets!r}; leave out +Inf, which is always added"
        )
    return bounds


class Family(NamedTuple):
    """Metric family.

    Attributes:
        name: Exported name, including the `_total` of a counter.
        kind: Prometheus type.
        help: Help text of the exposition.
        labels: Label names, in the order of the label values of a row.
        buckets: Ascending upper bounds without +Inf; empty unless it is a histogram.
        merge: Aggregation of a gauge over several worker processes; "newest" is the maximum of
            timestamps, and 0 is not one; "largest" is the maximum over workers of the sum in each;
            "least" is the minimum of the workers that know a value.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Literal["sum", "max", "newest", "largest", "least"] = "sum"

    @property
    def width(self) -> int:
        """Length of a row: 1, or for a histogram the sum and the counts of all buckets."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


_REQUEST = ("method", "route", "status", "provider")

REQUESTS = Family(
    "tokenpulse_http_requests_total", "counter", "Total number of HTTP requests", _REQUEST
)
DURATION = Family(
    "tokenpulse_http_request_duration_seconds",
    "histogram",
    "Duration of HTTP requests in seconds",
    _REQUEST,
    DURATION_BUCKETS,
)
IN_PROGRESS = Family("tokenpulse_http_requests_in_progress", "gauge", "HTTP requests in progress.")
WEBSOCKETS = Family("tokenpulse_websocket_connections", "gauge", "Open WebSocket connections.")
FIRST_BYTE = Family(
    "tokenpulse_http_time_to_first_byte_seconds",
    "histogram",
    "Time to the first byte of the response body in seconds.",
    ("route", "provider"),
    DURATION_BUCKETS,
)
RESPONSES = Family(
    "tokenpulse_http_responses_total",
    "counter",
    "HTTP responses, by how they ended.",
    ("provider", "outcome"),
)
FAILURES = Family(
    "tokenpulse_http_failures_total",
    "counter",
    "Failed HTTP requests, by whose fault it is: client, policy, gateway, provider or network.",
    ("provider", "fault"),
)
OLDEST_REQUEST = Family(
    "tokenpulse_http_oldest_request_seconds",
    "gauge",
    "Age in seconds of the oldest HTTP request in progress; 0 without requests.",
    merge="max",
)
LONGEST_IDLE = Family(
    "tokenpulse_http_longest_idle_seconds",
    "gauge",
    "Longest time in seconds without a byte of a request in progress, by whether it waits for the "
    "first byte of the response (waiting) or for the next one (streaming).",
    ("phase",),
    merge="max",
)
UPSTREAM_REQUESTS = Family(
    "tokenpulse_upstream_remaining_requests",
    "gauge",
    "Remaining requests of the provider's rate limit that is nearest to its end.",
    ("provider",),
    merge="least",
)
UPSTREAM_TOKENS = Family(
    "tokenpulse_upstream_remaining_tokens",
    "gauge",
    "Remaining tokens of the provider's rate limit that is nearest to its end.",
    ("provider",),
    merge="least",
)
UPSTREAM_RATIO = Family(
    "tokenpulse_upstream_remaining_ratio",
    "gauge",
    "Remaining share, from 0 to 1, of the provider's rate limit that is nearest to its end.",
    ("provider", "unit"),
    merge="least",
)
TOKENS = Family(
    "tokenpulse_llm_tokens_total",
    "counter",
    "Tokens reported by the providers; input includes cache, output includes reasoning.",
    ("provider", "model", "kind"),
)
USAGE = Family(
    "tokenpulse_llm_requests_total",
    "counter",
    "Requests to language models, by whether the usage of the response was reported.",
    ("provider", "model", "usage"),
)
COST = Family(
    "tokenpulse_llm_cost_usd_total",
    "counter",
    "Cost of responses in US dollars, reported by the provider or estimated from prices.",
    ("provider", "model", "source"),
)
COST_MISSING = Family(
    "tokenpulse_llm_cost_missing_total",
    "counter",
    "Responses of language models whose cost is unknown.",
    ("provider", "model"),
)
FIRST_TOKEN = Family(
    "tokenpulse_llm_time_to_first_token_seconds",
    "histogram",
    "Time to the first output token of a streamed response in seconds.",
    ("provider", "model"),
    DURATION_BUCKETS,
)
PER_TOKEN = Family(
    "tokenpulse_llm_time_per_output_token_seconds",
    "histogram",
    "Mean time between the output tokens of a streamed response in seconds.",
    ("provider", "model"),
    TOKEN_BUCKETS,
)
DECISIONS = Family(
    "tokenpulse_rate_limit_decisions_total",
    "counter",
    "Rate limit decisions.",
    ("policy", "decision"),
)
LIMIT_KEYS = Family(
    "tokenpulse_rate_limit_keys",
    "gauge",
    "Entries in the rate limiter table; in the largest one if workers have separate tables.",
    ("policy",),
    merge="largest",  # a table that the workers share counts once
)
LIMIT_EVICTIONS = Family(
    "tokenpulse_rate_limit_evictions_total",
    "counter",
    "Entries evicted from the full rate limiter table before they expired.",
    ("policy",),
)
ALERTS = Family(
    "tokenpulse_alerts",
    "gauge",
    "Current alerts, by type, severity and state.",
    ("type", "severity", "state"),
)
EVALUATIONS = Family(
    "tokenpulse_alert_evaluations_total",
    "counter",
    "Evaluations of the alert rules.",
    ("result",),
)
EVALUATION_DURATION = Family(
    "tokenpulse_alert_evaluation_duration_seconds",
    "histogram",
    "Duration of alert rule evaluations in seconds, without deliveries.",
    ("result",),
    EVALUATION_BUCKETS,
)
DELIVERIES = Family(
    "tokenpulse_alert_deliveries_total",
    "counter",
    "Delivery attempts and dropped notifications of the alert sinks.",
    ("sink", "result"),
)
LAST_EVALUATION = Family(
    "tokenpulse_alert_last_evaluation_timestamp_seconds",
    "gauge",
    "Unix timestamp of the last successful evaluation of all alert rules, of the leader.",
    merge="newest",
)
QUEUE_LENGTH = Family(
    "tokenpulse_alert_notification_queue_length",
    "gauge",
    "Notifications waiting to be accepted by the alert sink.",
    ("sink",),
)
SUBJECT_OVERFLOW = Family(
    "tokenpulse_alert_subject_overflow_total",
    "counter",
    "Observations counted under the alert subject __overflow__ because the table was full.",
)
FLEET_LEADER = Family(
    "tokenpulse_alert_fleet_leader",
    "gauge",
    "Whether this process evaluates the alert rules for all processes (1) or not (0).",
)
FLEET_MEMBERS = Family(
    "tokenpulse_alert_fleet_members",
    "gauge",
    "Processes that share the alert store and were alive at the last heartbeat.",
    merge="max",
)
FLEET_BEHIND = Family(
    "tokenpulse_alert_fleet_behind_seconds",
    "gauge",
    "Age in seconds of the oldest traffic that the alert store has not accepted.",
    merge="max",
)
HEARTBEATS = Family(
    "tokenpulse_alert_heartbeats_total",
    "counter",
    "Heartbeats, which send the traffic of a process to the alert store.",
    ("result",),
)
LATE = Family(
    "tokenpulse_alert_late_total",
    "counter",
    "Parts of the traffic that arrived after the evaluation that they belong to.",
)
ACTIVE_PROVIDERS = Family(
    "tokenpulse_active_providers",
    "gauge",
    "Whether the credentials of the provider are active (1) or not (0).",
    ("provider",),
)
ASYNCIO_TASKS = Family(
    "tokenpulse_asyncio_tasks", "gauge", "Unfinished tasks of the asyncio event loop."
)
INTERNAL_ERRORS = Family(
    "tokenpulse_internal_errors_total",
    "counter",
    "Errors in the middleware itself that did not affect requests.",
    ("component",),
)
OVERFLOW = Family(
    "tokenpulse_series_overflow_total",
    "counter",
    "Observations counted in the __overflow__ series of a full metric family.",
    ("family",),
)

# Families whose values are read by callbacks at each scrape.
CALLBACK_FAMILIES = (
    OLDEST_REQUEST,
    LONGEST_IDLE,
    UPSTREAM_REQUESTS,
    UPSTREAM_TOKENS,
    UPSTREAM_RATIO,
    LIMIT_KEYS,
    LIMIT_EVICTIONS,
    ALERTS,
    LAST_EVALUATION,
    QUEUE_LENGTH,
    SUBJECT_OVERFLOW,
    FLEET_LEADER,
    FLEET_MEMBERS,
    FLEET_BEHIND,
    LATE,
    ACTIVE_PROVIDERS,
    ASYNCIO_TASKS,
)
