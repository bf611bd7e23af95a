"""The metric families that this library exports: names, labels and buckets, in one list."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Literal, NamedTuple

# The seed's buckets (prom-client's default), and above them what answers of models need.
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# A round of the alert rules takes milliseconds, or something is wrong.
EVALUATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# The upper bounds that OpenTelemetry advises for gen_ai.server.time_per_output_token.
TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)


def check_buckets(buckets: Sequence[float]) -> tuple[float, ...]:
    """`buckets` as upper bounds of a histogram.

    Raises:
        ValueError: They are not finite numbers above 0, each larger than the one before, or
            there is none.
    """
    bounds = tuple(buckets) if isinstance(buckets, Sequence) else ()
    numbers = all(type(bound) in (int, float) and 0 < bound < inf for bound in bounds)
    if not bounds or not numbers or any(one >= other for one, other in pairwise(bounds)):
        raise ValueError(
            "buckets must be finite numbers of seconds above 0, each larger than the one before "
            f"and at least one (+Inf is added by itself), got {buckets!r}"
        )
    return bounds


class Family(NamedTuple):
    """One metric family.

    Attributes:
        name: As exported, with the `_total` of a counter.
        kind: Its Prometheus type.
        help: One sentence for whoever reads the scrape.
        labels: Label names, in the order of the values in a row's key.
        buckets: Upper bounds in seconds, ascending, without +Inf; histograms only.
        merge: What the values of several workers are together: their sum, or the least of them.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Literal["sum", "min"] = "sum"

    @property
    def width(self) -> int:
        """Numbers in one of its rows: a value, or a sum and the counts of all buckets."""
        return len(self.buckets) + 2 if self.buckets else 1


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
IN_PROGRESS = Family(
    "tokenpulse_http_requests_in_progress", "gauge", "HTTP requests being answered now"
)
FIRST_BYTE = Family(
    "tokenpulse_http_time_to_first_byte_seconds",
    "histogram",
    "Time until the first byte of the response body in seconds",
    ("route", "provider"),
    DURATION_BUCKETS,
)
RESPONSES = Family(
    "tokenpulse_http_responses_total",
    "counter",
    "Responses by how they ended",
    ("provider", "outcome"),
)
TOKENS = Family(
    "tokenpulse_llm_tokens_total",
    "counter",
    "Tokens as the vendors report them; cache is part of input, reasoning part of output",
    ("provider", "kind"),
)
USAGE = Family(
    "tokenpulse_llm_requests_total",
    "counter",
    "Requests to language models, by whether the usage of the response was reported.",
    ("provider", "usage"),
)
FIRST_TOKEN = Family(
    "tokenpulse_llm_time_to_first_token_seconds",
    "histogram",
    "Time until the model's first words in a stream in seconds",
    ("provider",),
    DURATION_BUCKETS,
)
PER_TOKEN = Family(
    "tokenpulse_llm_time_per_output_token_seconds",
    "histogram",
    "Mean time between output tokens of a stream in seconds",
    ("provider",),
    TOKEN_BUCKETS,
)
DECISIONS = Family(
    "tokenpulse_rate_limit_decisions_total",
    "counter",
    "Decisions of the rate limiter",
    ("policy", "decision"),
)
LIMIT_KEYS = Family(
    "tokenpulse_rate_limit_keys", "gauge", "Clients that a rate limit keeps one by one", ("policy",)
)
LIMIT_EVICTIONS = Family(
    "tokenpulse_rate_limit_evictions_total",
    "counter",
    "Clients that left the full table of a rate limit before their time",
    ("policy",),
)
ALERTS = Family(
    "tokenpulse_alerts",
    "gauge",
    "Alerts by what they are about and how far they have come",
    ("type", "severity", "state"),
)
EVALUATIONS = Family(
    "tokenpulse_alert_evaluations_total",
    "counter",
    "Rounds in which the alert rules were evaluated",
    ("result",),
)
EVALUATION_DURATION = Family(
    "tokenpulse_alert_evaluation_duration_seconds",
    "histogram",
    "Duration of a round of the alert rules in seconds, deliveries not included",
    ("result",),
    EVALUATION_BUCKETS,
)
DELIVERIES = Family(
    "tokenpulse_alert_deliveries_total",
    "counter",
    "Notifications handed to the sinks of alerts",
    ("sink", "result"),
)
LAST_EVALUATION = Family(
    "tokenpulse_alert_last_evaluation_timestamp_seconds",
    "gauge",
    "When all alert rules were last evaluated with success, in seconds since the epoch",
    merge="min",  # one worker whose rounds have stopped is one too many
)
QUEUE_LENGTH = Family(
    "tokenpulse_alert_notification_queue_length",
    "gauge",
    "Notifications that a sink has not taken yet",
    ("sink",),
)
SUBJECT_OVERFLOW = Family(
    "tokenpulse_alert_subject_overflow_total",
    "counter",
    "Observations of tenants that were counted together as __overflow__, for want of room",
)
ACTIVE_PROVIDERS = Family(
    "tokenpulse_active_providers",
    "gauge",
    "Whether the credentials of a provider are active",
    ("provider",),
)
ASYNCIO_TASKS = Family("tokenpulse_asyncio_tasks", "gauge", "Tasks of the event loop")
INTERNAL_ERRORS = Family(
    "tokenpulse_internal_errors_total",
    "counter",
    "Failures of the monitoring itself, which no request noticed",
    ("component",),
)
OVERFLOW = Family(
    "tokenpulse_series_overflow_total",
    "counter",
    "Observations folded into a family's __overflow__ series because it was full",
    ("family",),
)

# What others count, and is looked up when somebody reads it.
CALLBACK_FAMILIES = (
    LIMIT_KEYS,
    LIMIT_EVICTIONS,
    ALERTS,
    LAST_EVALUATION,
    QUEUE_LENGTH,
    SUBJECT_OVERFLOW,
    ACTIVE_PROVIDERS,
    ASYNCIO_TASKS,
)
