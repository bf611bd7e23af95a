"""HttpMetrics: what each exchange adds."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from tokenpulse_mw import Exchange, HttpMetrics, TokenUsage

# prom-client's default, which the seed exports, and then what answers of models need.
SEEDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0")
OURS = ("30.0", "60.0", "120.0", "300.0", "600.0", "+Inf")


def finished(**fields: object) -> Exchange:
    """An exchange that ended well, but for `fields`."""
    exchange = Exchange("POST", 0.0)
    usual = {"route": "/chat", "status": 200, "provider": "claude", "duration": 2.0}
    for name, value in {**usual, **fields}.items():
        setattr(exchange, name, value)
    return exchange


def value(metrics: HttpMetrics, name: str, **labels: str) -> float | None:
    """The value of a series, or None where there is no such series."""
    return metrics.registry.get_sample_value(name, labels)


def test_the_seeds_two_families(metrics: HttpMetrics) -> None:
    """Their names, labels, help and first buckets are exact."""
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
    assert [line.split('le="')[1].split('"')[0] for line in buckets] == [*SEEDS, *OURS]


def test_requests_in_progress(metrics: HttpMetrics) -> None:
    """They are counted up when they begin, down when they end or turn out to be probes."""
    gauge = "tokenpulse_http_requests_in_progress"
    metrics.on_open()
    metrics.on_open()
    assert value(metrics, gauge) == 2
    metrics(finished())
    metrics.on_drop()
    assert value(metrics, gauge) == 0


def test_tokens_by_kind(metrics: HttpMetrics) -> None:
    """Each kind is a series of the provider; where the numbers come from is counted too."""
    metrics(finished(usage=TokenUsage(10, 5, 4, 3, 2), usage_source="partial"))
    metrics(finished(usage_source="missing"))

    kinds = {"input": 10, "output": 5, "cache_read": 4, "cache_write": 3, "reasoning": 2}
    for kind, tokens in kinds.items():
        assert value(metrics, "tokenpulse_llm_tokens_total", provider="claude", kind=kind) == tokens
    for source in ("partial", "missing"):
        labels = {"provider": "claude", "usage": source}
        assert value(metrics, "tokenpulse_llm_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("output", "outcome", "counted"),
    [(5, "complete", 1), (1, "complete", None), (5, "client_disconnect", None)],
)
def test_time_per_output_token(
    metrics: HttpMetrics, output: int, outcome: str, counted: int | None
) -> None:
    """It is the time of writing through the gaps between tokens, for whole streams of several."""
    metrics(
        finished(
            usage=TokenUsage(1, output),
            usage_source="reported",
            time_to_first_token=1.0,
            outcome=outcome,
        )
    )

    name = "tokenpulse_llm_time_per_output_token_seconds"
    assert value(metrics, f"{name}_count", provider="claude") == counted
    assert value(metrics, f"{name}_sum", provider="claude") == (0.25 if counted else None)
    first = "tokenpulse_llm_time_to_first_token_seconds_count"
    assert value(metrics, first, provider="claude") == 1


def test_responses_by_how_they_ended(metrics: HttpMetrics) -> None:
    """A stream that failed behind its 200 is seen here."""
    metrics(finished(outcome="error", time_to_first_byte=0.5))

    labels = {"provider": "claude", "outcome": "error"}
    assert value(metrics, "tokenpulse_http_responses_total", **labels) == 1
    name = "tokenpulse_http_time_to_first_byte_seconds_sum"
    assert value(metrics, name, route="/chat", provider="claude") == 0.5


@pytest.mark.parametrize("first_byte", [0.5, 2.0])
def test_the_first_byte_falls_into_a_bucket_of_its_own(first_byte: float) -> None:
    """That of the whole duration only where all came at once."""
    metrics = HttpMetrics(CollectorRegistry(), buckets=[1, 2.5])

    metrics(finished(duration=2.0, time_to_first_byte=first_byte))

    labels = {"route": "/chat", "provider": "claude", "le": "1.0"}
    name = "tokenpulse_http_time_to_first_byte_seconds_bucket"
    assert value(metrics, name, **labels) == (first_byte <= 1)
    whole = {**labels, "method": "POST", "status": "200"}
    assert value(metrics, "tokenpulse_http_request_duration_seconds_bucket", **whole) == 0


def test_decisions_and_failures(metrics: HttpMetrics) -> None:
    """Other parts have what they do counted."""
    metrics.on_limit("default", "limited")
    metrics.on_error("provider")

    name = "tokenpulse_rate_limit_decisions_total"
    assert value(metrics, name, policy="default", decision="limited") == 1
    assert value(metrics, "tokenpulse_internal_errors_total", component="provider") == 1


def test_series_are_capped() -> None:
    """Beyond the cap a family has one more series, and the overflow is counted."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=2)
    for number in range(5):
        metrics(finished(route=f"/{number}"))

    rest = dict.fromkeys(("method", "route", "status", "provider"), "__overflow__")
    assert value(metrics, "tokenpulse_http_requests_total", **rest) == 3
    family = "tokenpulse_http_request_duration_seconds"
    assert value(metrics, "tokenpulse_series_overflow_total", family=family) == 3


def test_the_overflow_of_many_families_is_told_for_each() -> None:
    """The family that tells of overflow is not capped itself."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=1)
    for number in range(3):
        metrics(finished(route=f"/{number}", provider=str(number), time_to_first_byte=1.0))

    name = "tokenpulse_series_overflow_total"
    for family in ("http_request_duration_seconds", "http_responses_total"):
        assert value(metrics, name, family=f"tokenpulse_{family}") == 2


def test_the_default_is_prometheus_clients_registry() -> None:
    """What the process exposes already, exposes us without another word."""
    assert HttpMetrics().registry is REGISTRY


def test_buckets_can_be_others() -> None:
    """They are those of every histogram of durations; the one for tokens keeps its own."""
    metrics = HttpMetrics(CollectorRegistry(), buckets=[1, 2.5])

    metrics(finished(duration=2.0, time_to_first_byte=0.5))

    text = metrics.render().decode()
    buckets = [line for line in text.splitlines() if "duration_seconds_bucket" in line]
    assert [line.split('le="')[1] for line in buckets] == ['1.0"} 0.0', '2.5"} 1.0', '+Inf"} 1.0']


def test_the_buckets_of_a_registry_cannot_change() -> None:
    """Two on one registry share their families, so the second may leave them out or repeat."""
    metrics = HttpMetrics(CollectorRegistry(), buckets=[1, 2])

    assert HttpMetrics(metrics.registry) == HttpMetrics(metrics.registry, buckets=[1, 2]) == metrics
    with pytest.raises(
        ValueError, match=r"our families are there already with buckets \(1, 2\), got \(1, 3\)"
    ):
        HttpMetrics(metrics.registry, buckets=[1, 3])


@pytest.mark.parametrize(
    "buckets",
    [[], [0, 1], [-1], [2, 1], [1, 1], [1, float("inf")], [float("nan")], ["1"], [True], 5],
)
def test_malformed_buckets_are_refused(buckets: list[float]) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match="buckets must be finite numbers of seconds above 0"):
        HttpMetrics(CollectorRegistry(), buckets=buckets)


@pytest.mark.parametrize("most", [0, -1, 1.5, "many", True])
def test_a_cap_must_be_a_number(most: int) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match="max_series must be a whole number of at least 1, got"):
        HttpMetrics(CollectorRegistry(), max_series=most)


def test_metrics_need_a_registry() -> None:
    """What else is given is refused at construction."""
    with pytest.raises(ValueError, match="registry must be a CollectorRegistry, got 'x'"):
        HttpMetrics("x")  # type: ignore[arg-type]
