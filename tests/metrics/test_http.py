"""Observer that counts exchanges."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from tokenpulse_mw import Exchange, HttpMetrics, Models, TokenUsage

# The default buckets of prom-client, then those for the duration of model responses.
DEFAULT_BOUNDS = (
    "0.005",
    "0.01",
    "0.025",
    "0.05",
    "0.1",
    "0.25",
    "0.5",
    "1.0",
    "2.5",
    "5.0",
    "10.0",
)
MODEL_BOUNDS = ("30.0", "60.0", "120.0", "300.0", "600.0", "+Inf")


def finished(**fields: object) -> Exchange:
    """Return a successful exchange with other values for `fields`."""
    exchange = Exchange("POST", 0.0)
    defaults = {"route": "/chat", "status": 200, "provider": "claude", "duration": 2.0}
    for name, value in {**defaults, **fields}.items():
        setattr(exchange, name, value)
    return exchange


def value(metrics: HttpMetrics, name: str, **labels: str) -> float | None:
    """Return the value of a series, or None if it does not exist."""
    return metrics.registry.get_sample_value(name, labels)


def test_metrics_in_memory_are_those_of_one_worker(metrics: HttpMetrics) -> None:
    """Without a folder, no other process counts in them."""
    assert metrics.workers() == 1


def test_requests_and_durations_have_exact_names_and_labels(metrics: HttpMetrics) -> None:
    """Name, help, label order and the first buckets are a fixed interface."""
    metrics.on_open()
    metrics(finished())

    text = metrics.render().decode()
    labels = 'method="POST",route="/chat",status="200",provider="claude"'
    assert "# HELP tokenpulse_http_requests_total Total number of HTTP requests\n" in text
    assert f"tokenpulse_http_requests_total{{{labels}}} 1.0\n" in text
    name = "tokenpulse_http_request_duration_seconds"
    assert f"# HELP {name} Duration of HTTP requests in seconds\n" in text
    assert f"{name}_sum{{{labels}}} 2.0\n" in text
    buckets = [line for line in text.splitlines() if line.startswith(f"{name}_bucket")]
    assert [line.split('le="')[1].split('"')[0] for line in buckets] == [
        *DEFAULT_BOUNDS,
        *MODEL_BOUNDS,
    ]


def test_in_progress_is_decremented_at_the_end_of_a_request(metrics: HttpMetrics) -> None:
    """Finished and discarded requests are decremented."""
    gauge = "tokenpulse_http_requests_in_progress"
    metrics.on_open()
    metrics.on_open()
    assert value(metrics, gauge) == 2
    metrics(finished())
    metrics.on_drop()
    assert value(metrics, gauge) == 0


def test_tokens_are_counted_by_kind(metrics: HttpMetrics) -> None:
    """Responses are counted by the completeness of their usage."""
    metrics(finished(usage=TokenUsage(10, 5, 4, 3, 2), usage_source="partial"))
    metrics(finished(usage_source="missing"))

    kinds = {"input": 10, "output": 5, "cache_read": 4, "cache_write": 3, "reasoning": 2}
    for kind, tokens in kinds.items():
        labels = {"provider": "claude", "model": "unknown", "kind": kind}
        assert value(metrics, "tokenpulse_llm_tokens_total", **labels) == tokens
    for usage in ("partial", "missing"):
        labels = {"provider": "claude", "model": "unknown", "usage": usage}
        assert value(metrics, "tokenpulse_llm_requests_total", **labels) == 1


def test_tokens_after_a_clear_are_counted_from_zero(metrics: HttpMetrics) -> None:
    """Cached rows are removed with the series."""
    for clear in (True, False):
        metrics(finished(usage=TokenUsage(10), usage_source="reported"))
        if clear:
            metrics.clear()

    labels = {"provider": "claude", "model": "unknown", "kind": "input"}
    assert value(metrics, "tokenpulse_llm_tokens_total", **labels) == 10


@pytest.mark.parametrize(
    ("output", "outcome", "counted"),
    [(5, "complete", 1), (1, "complete", None), (5, "client_disconnect", None)],
)
def test_time_per_output_token_needs_a_complete_stream(
    metrics: HttpMetrics, output: int, outcome: str, counted: int | None
) -> None:
    """The generation time is divided by the number of intervals between tokens."""
    metrics(
        finished(
            usage=TokenUsage(1, output),
            usage_source="reported",
            time_to_first_token=1.0,
            outcome=outcome,
        )
    )

    name = "tokenpulse_llm_time_per_output_token_seconds"
    labels = {"provider": "claude", "model": "unknown"}
    assert value(metrics, f"{name}_count", **labels) == counted
    assert value(metrics, f"{name}_sum", **labels) == (0.25 if counted else None)
    first = "tokenpulse_llm_time_to_first_token_seconds_count"
    assert value(metrics, first, **labels) == 1


def test_tokens_are_counted_by_model() -> None:
    """Dates and prefixes are removed; models that are neither declared nor known are `other`."""
    metrics = HttpMetrics(CollectorRegistry(), models=Models(["gpt-5-mini"], max_seen=1))

    for model in ("gpt-5-mini-2026-01-21", "openai/gpt-5-mini", "o3", "made-up"):
        metrics(
            finished(
                provider="openai",
                model=model,
                model_source="response",
                usage=TokenUsage(10),
                usage_source="reported",
            )
        )

    labels = {"provider": "openai", "kind": "input"}
    for model, tokens in {"gpt-5-mini": 20, "o3": 10, "other": 10}.items():
        name = "tokenpulse_llm_tokens_total"
        assert value(metrics, name, model=model, **labels) == tokens


def test_model_that_only_a_client_has_named_gets_no_series(metrics: HttpMetrics) -> None:
    """Without a usage, the name in a request proves no model."""
    metrics(finished(model="made-up", model_source="request", usage_source="missing"))

    labels = {"provider": "claude", "usage": "missing"}
    assert value(metrics, "tokenpulse_llm_requests_total", model="other", **labels) == 1


def test_cost_is_counted_in_dollars_by_source(metrics: HttpMetrics) -> None:
    """An unknown cost is counted as missing, and never as 0."""
    for nanos, source in ((1_500_000_000, "reported"), (2_000, "estimated"), (None, "missing")):
        metrics(finished(cost_nanos=nanos, cost_source=source))

    labels = {"provider": "claude", "model": "unknown"}
    name = "tokenpulse_llm_cost_usd_total"
    assert value(metrics, name, source="reported", **labels) == 1.5
    assert value(metrics, name, source="estimated", **labels) == 0.000002
    assert value(metrics, name, source="missing", **labels) is None
    assert value(metrics, "tokenpulse_llm_cost_missing_total", **labels) == 1


def test_cleared_metrics_have_room_for_other_models() -> None:
    """The first models are those that respond after the clear."""
    metrics = HttpMetrics(CollectorRegistry(), models=Models(max_seen=1))
    for model in ("o3", "gpt-5"):
        metrics.clear()
        metrics(
            finished(
                model=model, model_source="response", usage=TokenUsage(), usage_source="partial"
            )
        )

    labels = {"provider": "claude", "usage": "partial"}
    assert value(metrics, "tokenpulse_llm_requests_total", model="gpt-5", **labels) == 1


def test_invalid_models_are_rejected() -> None:
    """The bounded set is an object, since metrics and policies can share it."""
    with pytest.raises(ValueError, match=r"^models must be Models\(\.\.\.\), got \['gpt-5'\]"):
        HttpMetrics(CollectorRegistry(), models=["gpt-5"])  # type: ignore[arg-type]


def test_responses_are_counted_by_outcome(metrics: HttpMetrics) -> None:
    """A stream that fails after its status 200 is counted as an error."""
    metrics(finished(outcome="error", time_to_first_byte=0.5))

    labels = {"provider": "claude", "outcome": "error"}
    assert value(metrics, "tokenpulse_http_responses_total", **labels) == 1
    name = "tokenpulse_http_time_to_first_byte_seconds_sum"
    assert value(metrics, name, route="/chat", provider="claude") == 0.5


@pytest.mark.parametrize("first_byte", [0.5, 2.0])
def test_first_byte_has_its_own_bucket(first_byte: float) -> None:
    """The bucket of the duration is reused only if both times are equal."""
    metrics = HttpMetrics(CollectorRegistry(), buckets=[1, 2.5])

    metrics(finished(duration=2.0, time_to_first_byte=first_byte))

    labels = {"route": "/chat", "provider": "claude", "le": "1.0"}
    name = "tokenpulse_http_time_to_first_byte_seconds_bucket"
    assert value(metrics, name, **labels) == (first_byte <= 1)
    whole = {**labels, "method": "POST", "status": "200"}
    assert value(metrics, "tokenpulse_http_request_duration_seconds_bucket", **whole) == 0


def test_decisions_and_errors_are_counted(metrics: HttpMetrics) -> None:
    """Decisions of rate limits and errors of components are counted by their labels."""
    metrics.on_limit("default", "limited")
    metrics.on_error("provider")

    name = "tokenpulse_rate_limit_decisions_total"
    assert value(metrics, name, policy="default", decision="limited") == 1
    assert value(metrics, "tokenpulse_internal_errors_total", component="provider") == 1


def test_full_family_counts_in_an_overflow_series() -> None:
    """Each overflow is counted."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=2)
    for number in range(5):
        metrics(finished(route=f"/{number}"))

    overflow = dict.fromkeys(("method", "route", "status", "provider"), "__overflow__")
    assert value(metrics, "tokenpulse_http_requests_total", **overflow) == 3
    family = "tokenpulse_http_request_duration_seconds"
    assert value(metrics, "tokenpulse_series_overflow_total", family=family) == 3


def test_overflow_is_counted_for_each_family() -> None:
    """The overflow counter itself is not limited."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=1)
    for number in range(3):
        metrics(finished(route=f"/{number}", provider=str(number), time_to_first_byte=1.0))

    name = "tokenpulse_series_overflow_total"
    for family in ("http_request_duration_seconds", "http_responses_total"):
        assert value(metrics, name, family=f"tokenpulse_{family}") == 2


def test_default_registry_is_that_of_prometheus_client() -> None:
    """Existing expositions of the process include the families."""
    assert HttpMetrics().registry is REGISTRY


def test_buckets_apply_to_all_duration_histograms() -> None:
    """Custom buckets replace the default ones."""
    metrics = HttpMetrics(CollectorRegistry(), buckets=[1, 2.5])

    metrics(finished(duration=2.0, time_to_first_byte=0.5))

    text = metrics.render().decode()
    buckets = [line for line in text.splitlines() if "duration_seconds_bucket" in line]
    assert [line.split('le="')[1] for line in buckets] == ['1.0"} 0.0', '2.5"} 1.0', '+Inf"} 1.0']


def test_other_buckets_on_one_registry_are_rejected() -> None:
    """A second instance may omit or repeat the buckets."""
    metrics = HttpMetrics(CollectorRegistry(), buckets=[1, 2])

    assert HttpMetrics(metrics.registry) == HttpMetrics(metrics.registry, buckets=[1, 2]) == metrics
    with pytest.raises(
        ValueError, match=r"buckets must be \(1, 2\), as already registered, got \(1, 3\)"
    ):
        HttpMetrics(metrics.registry, buckets=[1, 3])


@pytest.mark.parametrize(
    "buckets",
    [[], [0, 1], [-1], [2, 1], [1, 1], [1, float("inf")], [float("nan")], ["1"], [True], 5],
)
def test_invalid_buckets_are_rejected(buckets: list[float]) -> None:
    """The error states the expected and the actual value."""
    with pytest.raises(
        ValueError,
        match="buckets must be a non-empty, strictly ascending sequence of finite numbers",
    ):
        HttpMetrics(CollectorRegistry(), buckets=buckets)


@pytest.mark.parametrize("max_series", [0, -1, 1.5, "many", True])
def test_invalid_max_series_is_rejected(max_series: int) -> None:
    """The error states the actual value."""
    with pytest.raises(ValueError, match="max_series must be an integer of at least 1, got"):
        HttpMetrics(CollectorRegistry(), max_series=max_series)


def test_invalid_registry_is_rejected() -> None:
    """The type of the registry is checked at construction."""
    with pytest.raises(ValueError, match="registry must be a CollectorRegistry, got 'x'"):
        HttpMetrics("x")  # type: ignore[arg-type]
