"""Counts of exchanges by subject."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import TokenUsage
from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.traffic import OVERFLOW

from ..exchanges import exchange
from ..observed_traffic import ObservedTraffic


@pytest.mark.parametrize(
    ("fields", "requests", "failures"),
    [
        ({"status": 200}, 1, 0),
        ({"status": 404}, 1, 0),
        ({"status": 429}, 1, 0),
        ({"status": 499}, 1, 0),
        ({"status": 500}, 1, 1),
        ({"status": 503}, 1, 1),
        ({"status": 200, "outcome": "error"}, 1, 1),
        ({"status": 200, "outcome": "truncated"}, 1, 1),
        ({"status": 404, "outcome": "truncated"}, 1, 1),
        ({"status": 500, "outcome": "client_disconnect"}, 0, 0),
        ({"status": 499, "outcome": "client_disconnect"}, 0, 0),
        ({"status": 429, "limited": True}, 0, 0),
        ({"status": 503, "limited": True}, 0, 0),
    ],
)
def test_defect_6_only_server_errors_are_failures_of_the_key(
    fields: dict[str, Any], requests: int, failures: int
) -> None:
    """Client errors count as requests; limited requests and disconnects do not count."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.observe(exchange(api_key="k1", **fields), now=0)

    assert list(traffic.errors.failing()) == [("k1", 1 + requests, 1 + failures)]


@pytest.mark.parametrize(("status", "failures"), [(399, 0), (400, 1), (404, 1), (499, 1), (500, 1)])
def test_count_client_errors_counts_every_status_from_400(status: int, failures: int) -> None:
    """With `count_client_errors`, client errors are failures of the key, as in the seed."""
    traffic = ObservedTraffic(Thresholds(count_client_errors=True), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.observe(exchange(api_key="k1", status=status), now=0)

    assert list(traffic.errors.failing()) == [("k1", 2, 1 + failures)]


def test_exchange_without_key_counts_for_the_gateway() -> None:
    """A gateway that does not annotate keys is counted as a whole."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(status=500), now=0)

    assert list(traffic.errors.failing()) == [("", 1, 1)]


@pytest.mark.parametrize(("tenant", "subject"), [("acme", "acme"), (None, "")])
def test_limited_exchange_counts_for_its_tenant_alone(tenant: str | None, subject: str) -> None:
    """A request rejected by the gateway is not a failure of a key or an upstream."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(
        exchange(tenant=tenant, api_key="k1", provider="claude", status=503, limited=True), now=0
    )

    assert list(traffic.limited.items()) == [(subject, 1)]
    assert list(traffic.errors.failing()) == []
    assert list(traffic.upstreams.failing()) == []


@pytest.mark.parametrize(
    ("fields", "failing"),
    [
        ({"provider": "claude"}, [("provider", "claude")]),
        ({"provider": "claude", "credential": "c1"}, [("apikey", "c1")]),
        ({"provider": "other"}, [("provider", "other")]),
        ({"provider": "unknown", "credential": "c1"}, [("apikey", "c1")]),
        ({"provider": "unknown"}, []),
    ],
)
def test_failure_counts_for_the_credential_or_else_for_the_provider(
    fields: dict[str, Any], failing: list[tuple[str, str]]
) -> None:
    """A failure without credential and provider counts for no upstream."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(status=502, **fields), now=0)

    assert [upstream for upstream, _ in traffic.upstreams.failing()] == failing


@pytest.mark.parametrize(
    ("fields", "in_a_row"),
    [
        ({"status": 200}, 0),
        ({"status": 302}, 1),
        ({"status": 200, "method": "OPTIONS"}, 1),
        ({"status": 400}, 1),
        ({"status": 499}, 1),
        ({"status": 500}, 2),
        ({"status": 200, "outcome": "error"}, 2),
        ({"status": 200, "outcome": "truncated"}, 2),
        ({"status": 404, "outcome": "error"}, 2),
        ({"status": 500, "outcome": "client_disconnect"}, 1),
        ({"status": 200, "outcome": "client_disconnect"}, 1),
    ],
)
@pytest.mark.parametrize("count_client_errors", [False, True])
def test_only_responses_of_the_upstream_change_its_failures_in_a_row(
    fields: dict[str, Any], in_a_row: int, count_client_errors: bool
) -> None:
    """Client errors, preflights, redirects and disconnects are ignored."""
    traffic = ObservedTraffic(Thresholds(count_client_errors=count_client_errors), max_subjects=5)
    traffic.observe(exchange(provider="claude", status=500), now=0)

    traffic.observe(exchange(provider="claude", **fields), now=0)

    failures = [streak.failures for _, streak in traffic.upstreams.failing()]
    assert failures == ([in_a_row] if in_a_row else [])


def test_failure_without_provider_keeps_the_name_of_the_credential() -> None:
    """The provider of a failure is often unknown; the last known name stays."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(provider="claude", credential="c1"), now=0)

    traffic.observe(exchange(credential="c1", status=500), now=0)

    ((upstream, streak),) = traffic.upstreams.failing()
    assert (upstream, streak.name, streak.failures) == (("apikey", "c1"), "claude", 1)


def test_preflight_is_not_a_request_of_a_key() -> None:
    """Preflights of browsers would otherwise halve the error rate."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(status=500), now=0)
    traffic.observe(exchange(method="OPTIONS"), now=0)

    assert list(traffic.errors.failing()) == [("", 1, 1)]


def test_failures_expire_after_the_error_window() -> None:
    """Failures count for `error_window` seconds and at most a tenth more."""
    traffic = ObservedTraffic(Thresholds(error_window=10), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.advance(10)
    assert list(traffic.errors.failing()) == [("k1", 1, 1)]
    traffic.advance(11)
    assert list(traffic.errors.failing()) == []


def test_every_window_is_bounded_by_max_subjects() -> None:
    """A flood of keys, tenants and credentials does not use unbounded memory."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=2)

    for number in range(1000):
        name = str(number)
        traffic.observe(exchange(api_key=name, credential=name, status=500), now=0)
        traffic.observe(exchange(tenant=name, limited=True), now=0)

    counts = traffic.counts
    assert {key for key, *_ in traffic.errors.failing()} == {"0", "1", OVERFLOW}
    assert {tenant for tenant, _ in traffic.limited.items()} == {"0", "1", OVERFLOW}
    assert {upstream[1] for upstream, _ in traffic.upstreams.failing()} == {"998", "999"}
    assert {tenant for tenant, *_ in counts.minute.items()} == {"", "0", OVERFLOW}
    assert len(list(counts.failures_by_upstream.items())) == 5


def test_name_of_a_tenant_is_the_last_annotated_one_of_bounded_many() -> None:
    """Names of the least recent tenants are dropped beyond `max_subjects`."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=2)
    for tenant, name in [("1", "Old"), ("1", "Acme"), ("1", None), ("2", "Two"), (None, "None")]:
        traffic.observe(exchange(tenant=tenant, tenant_name=name), 0)
        traffic.advance(0)
    assert dict(traffic.tenant_names) == {"1": "Acme", "2": "Two"}

    traffic.observe(exchange(tenant="3", tenant_name="Three"), 0)

    assert dict(traffic.tenant_names) == {"2": "Two", "3": "Three"}


def test_tenant_named_as_the_overflow_is_counted_separately() -> None:
    """Requests, failures and limited requests of a tenant `__overflow__` have another name."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=1)
    for name in (OVERFLOW, "b"):
        traffic.observe(exchange(tenant=name, api_key=name, status=500), now=0)
        traffic.observe(exchange(tenant=name, limited=True), now=0)

    counts = traffic.counts
    assert sorted(counts.errors.failing()) == [(OVERFLOW, 1, 1), ("__overflow___", 1, 1)]
    assert dict(counts.limited.items()) == {OVERFLOW: 1, "__overflow___": 1}
    assert list(counts.minute.items()) == [("__overflow___", 2, 0), (OVERFLOW, 2, 0)]
    assert traffic.overflowed == 1 + 1 + 2 + 2


def test_overflowed_counts_all_windows_and_survives_new_thresholds() -> None:
    """`overflowed` shows that `max_subjects` is too small."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=1)
    assert traffic.overflowed == 0
    for key in "abc":
        traffic.observe(exchange(api_key=key), now=0)
        traffic.observe(exchange(tenant=key, limited=True), now=0)

    traffic.advance(0)

    # Two keys; two limited tenants; three of four tenants, in a minute and in a day.
    assert traffic.overflowed == 2 + 2 + 3 + 3
    finish(traffic.set_thresholds(Thresholds(error_window=10)))
    assert traffic.overflowed == 2 + 2 + 3 + 3


@pytest.mark.parametrize(
    ("fields", "requests", "tokens"),
    [
        ({}, 1, 0),
        ({"usage": TokenUsage(input=10, output=5, cache_read=9, reasoning=4)}, 1, 15),
        ({"status": 404}, 1, 0),
        ({"status": 429, "limited": True}, 1, 0),
        ({"outcome": "client_disconnect", "usage": TokenUsage(input=10)}, 1, 10),
        ({"method": "OPTIONS"}, 0, 0),
    ],
)
@pytest.mark.parametrize(("tenant", "subject"), [("acme", "acme"), (None, "")])
def test_defect_15_requests_and_tokens_count_for_the_tenant_or_the_gateway(
    fields: dict[str, Any], requests: int, tokens: int, tenant: str | None, subject: str
) -> None:
    """Input and output tokens count; preflights do not."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(tenant=tenant, **fields), now=0)

    counts = traffic.counts
    expected = [(subject, requests, tokens)] if requests else []
    assert list(counts.minute.items()) == list(counts.day.items()) == expected
    assert counts.request_rate.get("") == (requests, 0)


def test_defect_14_tokens_count_when_the_exchange_ends() -> None:
    """A stream of three minutes counts in the minute in which it ends."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    stream = exchange(tenant="acme", duration=180.0, usage=TokenUsage(output=7))

    traffic.observe(stream, now=1000)
    traffic.advance(1059)
    assert traffic.counts.minute.get("acme") == (1, 7)
    traffic.advance(1066)
    assert traffic.counts.minute.get("acme") == (0, 0)
    assert traffic.counts.day.get("acme") == (1, 7)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"provider": "claude", "status": 429}, [("claude", 1, 0)]),
        ({"provider": "claude", "status": 429, "limited": True}, [("claude", 1, 1)]),
        ({"provider": "claude", "status": 503, "limited": True}, [("claude", 1, 1)]),
        ({"provider": "unknown", "status": 429}, [("", 1, 0)]),
        ({"provider": "claude", "status": 200}, []),
    ],
)
def test_429_responses_count_for_the_provider_with_the_share_of_the_own_limit(
    fields: dict[str, Any], expected: list[tuple[str, int, int]]
) -> None:
    """Responses of the provider and of the gateway's own limit are distinguished."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(**fields), now=0)

    assert list(traffic.counts.rate_limited.items()) == expected


@pytest.mark.parametrize(
    ("duration", "bucket"),
    [(0.0, 0), (0.5, 0), (0.51, 1), (4.0, 3), (5.0, 4), (5.01, 5), (50.0, 9), (51.0, 10)],
)
def test_threshold_is_a_bound_of_the_duration_buckets(duration: float, bucket: int) -> None:
    """The number of durations above the threshold is exact."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    traffic.observe(exchange(provider="claude", duration=duration), now=0)

    assert list(traffic.counts.latencies.items()) == [(("claude", bucket), 1, 0)]
    bounds = traffic.counts.bounds
    assert bounds == (0.5, 1.25, 2.5, 4.0, 5, 7.5, 10, 15, 25, 50)


def test_failures_of_keys_and_providers_are_counted_by_upstream() -> None:
    """Client errors and failures without an upstream are not counted."""
    traffic = ObservedTraffic(Thresholds(count_client_errors=True), max_subjects=5)
    for fields in (
        {"provider": "claude", "status": 500},
        {"provider": "claude", "status": 500, "credential": "c1"},
        {"provider": "claude", "status": 404},
        {"provider": "unknown", "status": 500},
        {"provider": "claude"},
    ):
        traffic.observe(exchange(api_key="k1", **fields), now=0)

    claude, c1 = ("provider", "claude"), ("apikey", "c1")
    assert sorted(traffic.counts.failures_by_upstream.items()) == [
        (("key", "k1", c1), 1, 0),
        (("key", "k1", claude), 1, 0),
        (("provider", "claude", c1), 1, 0),
        (("provider", "claude", claude), 1, 0),
    ]


def test_begin_evaluation_resets_limited_requests_but_not_the_windows() -> None:
    """The requests of a tenant stay in the windows after an evaluation."""
    traffic = ObservedTraffic(Thresholds(master_rpd=1), max_subjects=5)
    traffic.observe(exchange(tenant="acme", limited=True), now=0)
    assert list(traffic.limited.items()) == [("acme", 1)]

    traffic.begin_evaluation()

    assert list(traffic.limited.items()) == []
    assert list(traffic.counts.day.maxima()) == [("acme", 1, 0)]


def test_exchange_still_buffered_counts_in_the_next_evaluation() -> None:
    """An exchange that is still buffered is not reset by `begin_evaluation`."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(tenant="acme", limited=True), now=0)

    traffic.begin_evaluation()

    assert list(traffic.limited.items()) == [("acme", 1)]


def test_new_thresholds_apply_to_earlier_traffic() -> None:
    """A daily threshold set at noon includes the requests of the morning."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    for _ in range(20):
        traffic.observe(exchange(tenant="acme", api_key="k1", status=500), now=0)

    finish(traffic.set_thresholds(Thresholds(master_rpd=20)))

    assert list(traffic.counts.day.maxima()) == [("acme", 20, 0)]
    assert list(traffic.errors.failing()) == [("k1", 20, 20)]


@pytest.mark.parametrize(
    "thresholds",
    [{"error_window": 10}, {"count_client_errors": True}, {"provider_latency_p95": 1}],
)
def test_incompatible_thresholds_reset_error_rates_and_latencies(
    thresholds: dict[str, Any],
) -> None:
    """Counts of another window or another kind of failure are dropped; those of tenants stay."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(api_key="k1", tenant="acme", status=500), now=0)

    finish(traffic.set_thresholds(Thresholds(**thresholds)))
    assert list(traffic.errors.failing()) == []
    assert list(traffic.counts.latencies.items()) == []
    assert traffic.counts.day.get("acme") == (1, 0)
    traffic.observe(exchange(api_key="k1", status=400), now=0)
    assert traffic.errors.get("k1") == (1, 1 if "count_client_errors" in thresholds else 0)


def test_latency_without_threshold_has_one_bucket() -> None:
    """Durations are not distinguished if the rule is disabled."""
    traffic = ObservedTraffic(Thresholds(provider_latency_p95=None), max_subjects=5)

    for duration in (0.1, 100.0):
        traffic.observe(exchange(provider="claude", duration=duration), now=0)

    assert list(traffic.counts.latencies.items()) == [(("claude", 0), 2, 0)]


def test_invalid_exchange_does_not_affect_others() -> None:
    """An error of `observe` loses no exchange before or after it."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(api_key="k1"), now=0)

    with pytest.raises(TypeError):
        traffic.observe(exchange(api_key=["k1"]), now=0)

    traffic.observe(exchange(api_key="k1"), now=0)
    assert traffic.errors.get("k1") == (2, 0)


class Ended(NamedTuple):
    """An exchange that ended `later` seconds after the previous one."""

    later: float
    key: str
    credential: str
    status: int


@given(
    log=st.lists(
        st.builds(
            Ended,
            later=st.sampled_from([0.0, 0.3, 1.0, 7.0]),
            key=st.sampled_from(["k1", "k2", "k3"]),
            credential=st.sampled_from(["c1", "c2", "c3"]),
            status=st.sampled_from([200, 404, 500]),
        ),
        max_size=60,
    ),
    most=st.integers(1, 3),
)
def test_buffered_exchanges_give_the_same_counts_as_unbuffered_ones(
    log: list[Ended], most: int
) -> None:
    """Rules read the same counts after every exchange and once at the end, overflow included."""
    unbuffered, buffered = (ObservedTraffic(Thresholds(), max_subjects=most) for _ in range(2))
    now = 0.0

    for ended in log:
        now += ended.later
        observed = exchange(api_key=ended.key, credential=ended.credential, status=ended.status)
        for traffic in (unbuffered, buffered):
            traffic.observe(observed, now)
        assert unbuffered.counts is not None

    for traffic in (unbuffered, buffered):
        traffic.advance(now)
    assert sorted(unbuffered.errors.items()) == sorted(buffered.errors.items())
    assert sorted(unbuffered.counts.day.items()) == sorted(buffered.counts.day.items())


@given(
    outcomes=st.lists(
        st.tuples(st.sampled_from(["c1", "c2", "c3"]), st.sampled_from([200, 500])), max_size=60
    )
)
def test_streaks_follow_the_order_of_the_exchanges(
    outcomes: list[tuple[str, int]],
) -> None:
    """Buffering does not change the order of successes and failures."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)

    for credential, status in outcomes:
        traffic.observe(exchange(credential=credential, status=status), now=0)

    failing = {}
    for credential in ("c1", "c2", "c3"):
        failed = [status == 500 for name, status in outcomes if name == credential][::-1]
        in_a_row = failed.index(False) if False in failed else len(failed)
        if in_a_row:
            failing["apikey", credential] = in_a_row
    result = {upstream: streak.failures for upstream, streak in traffic.upstreams.failing()}
    assert result == failing


def test_evicted_upstream_starts_with_a_new_streak() -> None:
    """No failure is added to the streak of another upstream."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=1)

    for credential in ("c1", "c2", "c1", "c1", "c2"):
        traffic.observe(exchange(credential=credential, status=500), now=0)

    result = {upstream: streak.failures for upstream, streak in traffic.upstreams.failing()}
    assert result == {("apikey", "c2"): 1}


def test_active_upstream_is_not_evicted() -> None:
    """Upstreams with a single request evict each other, not the active one."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=2)

    for number in range(50):
        traffic.observe(exchange(credential="busy", status=500), now=number)
        traffic.observe(exchange(credential=str(number), status=500), now=number)

    result = {upstream[1]: streak.failures for upstream, streak in traffic.upstreams.failing()}
    assert result == {"busy": 50, "49": 1}
