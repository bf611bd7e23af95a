"""Counts of exchanges by subject."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import TokenUsage
from tokenpulse_mw.alerts import Thresholds, Traffic
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store.records import WindowRecord
from tokenpulse_mw.alerts.traffic import OVERFLOW, Outcomes
from tokenpulse_mw.alerts.traffic.bucket import Bucket, Profile

from ..exchanges import exchange
from ..observed_traffic import ObservedTraffic, begin_evaluation


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
    """Failures count for `error_window` seconds and at most one slot more."""
    traffic = ObservedTraffic(Thresholds(error_window=10), max_subjects=5)
    traffic.observe(exchange(api_key="k1", status=500), now=0)

    traffic.advance(14)
    assert list(traffic.errors.failing()) == [("k1", 1, 1)]
    traffic.advance(15)
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


def test_tenants_of_keys_are_bounded() -> None:
    """The tenants of the least recent keys are dropped beyond `max_subjects`."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=2)
    for key in ("k1", "k2", "k1", "k3"):
        traffic.observe(exchange(api_key=key, tenant="1", tenant_name="Acme"), 0)
    traffic.observe(exchange(api_key="k4", tenant="unnamed"), 0)

    assert dict(traffic.key_tenants) == {"k1": "1", "k3": "1"}


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

    begin_evaluation(traffic)

    assert list(traffic.limited.items()) == []
    assert list(traffic.counts.day.maxima()) == [("acme", 1, 0)]


def test_new_thresholds_apply_to_earlier_traffic() -> None:
    """A daily threshold set at noon includes the requests of the morning."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    for _ in range(20):
        traffic.observe(exchange(tenant="acme", api_key="k1", status=500), now=0)

    finish(traffic.set_thresholds(Thresholds(master_rpd=20)))

    assert list(traffic.counts.day.maxima()) == [("acme", 20, 0)]
    assert list(traffic.errors.failing()) == [("k1", 20, 20)]


def test_levels_of_other_thresholds_are_restored() -> None:
    """A dry run finds subjects near other thresholds, and changes nothing."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(tenant="acme"), now=0)

    with traffic.preserve_levels():
        finish(traffic.set_levels(Thresholds(master_rpd=1)))
        assert list(traffic.counts.day.maxima()) == [("acme", 1, 0)]

    assert list(traffic.counts.day.maxima()) == []


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


def bucket(slot: int, **fields: Any) -> Bucket:
    """Return a bucket of 5 s with the default profile."""
    return Bucket(slot, Profile.of(Thresholds()), [0] * 5, **fields)


def test_late_bucket_counts_in_its_own_slots() -> None:
    """Counts of a late bucket expire with its slot, as if it had come in time."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(20, tenants={"acme": 1})))

    finish(traffic.apply(bucket(10, tenants={"acme": 2}, limited={"acme": 3})))

    assert traffic.counts.minute.get("acme") == (3, 0)
    assert list(traffic.limited.items()) == [("acme", 3)]
    traffic.advance(114)
    assert traffic.counts.minute.get("acme") == (3, 0)
    traffic.advance(115)
    assert traffic.counts.minute.get("acme") == (1, 0)


def test_late_bucket_is_ignored_where_the_window_has_passed() -> None:
    """A bucket that is two minutes late counts in the day, but not in the minute."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(100, tenants={"acme": 1})))

    finish(traffic.apply(bucket(76, tenants={"acme": 2})))

    assert traffic.counts.minute.get("acme") == (1, 0)
    assert traffic.counts.day.get("acme") == (3, 0)


def test_late_bucket_changes_no_name_of_a_tenant() -> None:
    """An older name or tenant does not replace a newer one."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(20, tenant_names={"7": "New"}, key_tenants={"k1": "7"})))

    old = {"tenant_names": {"7": "Old", "8": "Other"}, "key_tenants": {"k1": "8", "k2": "8"}}
    finish(traffic.apply(bucket(10, **old)))

    assert dict(traffic.tenant_names) == {"7": "New", "8": "Other"}
    assert dict(traffic.key_tenants) == {"k1": "7", "k2": "8"}


def test_bucket_with_another_profile_counts_without_error_rates() -> None:
    """Failures and latencies that were counted by other thresholds are left out."""
    traffic = Traffic(Thresholds(count_client_errors=True), max_subjects=5)

    finish(traffic.apply(bucket(1, tenants={"acme": 1}, keys={"k1": 1})))

    assert traffic.counts.minute.get("acme") == (1, 0)
    assert list(traffic.errors.items()) == []


@pytest.mark.parametrize(("window", "step"), [(300, 30), (60, 10), (10, 5), (1, 5), (301, 35)])
def test_error_windows_consist_of_whole_buckets(window: float, step: int) -> None:
    """The slots are a tenth of the window, rounded up to a multiple of a bucket."""
    counts = Traffic(Thresholds(error_window=window), max_subjects=5).counts

    assert {
        counts.errors.step,
        counts.latencies.step,
        counts.failures_by_upstream.step,
        counts.upstreams.step,
    } == {step}
    assert (counts.minute.step, counts.rate_limited.step, counts.day.step) == (5, 5, 3600)


def test_large_bucket_is_counted_in_bounded_steps() -> None:
    """Each step counts at most 1,000 names."""
    traffic = Traffic(Thresholds(), max_subjects=10_000)
    names = [str(number) for number in range(2500)]
    large = bucket(
        1,
        tenants=dict.fromkeys(names, 1),
        tenant_names=dict.fromkeys(names, "Acme"),
        outcomes={("apikey", name): Outcomes(failed_at=[1]) for name in names},
    )

    sizes = [0] + [
        len(traffic.counts.minute) + len(traffic.counts.day) for _ in traffic.apply(large)
    ]

    assert max(after - before for before, after in pairwise(sizes)) <= 1500
    assert (sizes[-1], len(traffic.tenant_names)) == (5000, 2500)
    assert len(list(traffic.upstreams.failing())) == 2500


def test_names_beyond_the_limit_of_a_process_stay_the_overflow() -> None:
    """The overflow of a bucket takes no name of the windows, and is not counted twice."""
    traffic = Traffic(Thresholds(), max_subjects=1)

    finish(traffic.apply(bucket(1, tenants={OVERFLOW: 3, "acme": 1})))

    assert list(traffic.counts.day.items()) == [(OVERFLOW, 3, 0), ("acme", 1, 0)]
    assert traffic.overflowed == 0


def stored(traffic: Traffic) -> list[WindowRecord]:
    """Return the changed slots, marked as stored."""
    records, _ = finish(traffic.snapshot())
    traffic.confirm_stored()
    return records


def kinds(records: list[WindowRecord]) -> list[tuple[str, int]]:
    """Return kind and slot of each record."""
    return [(record.kind, record.slot) for record in records]


def test_snapshot_has_the_slots_that_changed() -> None:
    """A slot is stored as a whole, and not again until it changes."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for slot in (1, 2):
        finish(traffic.apply(bucket(slot, tenants={"acme": 1})))

    assert kinds(stored(traffic)) == [("minute", 5), ("minute", 10), ("day", 0), ("state", 0)]
    assert kinds(stored(traffic)) == [("state", 0)]
    finish(traffic.apply(bucket(2, tenants={"acme": 1})))
    assert kinds(stored(traffic)) == [("minute", 10), ("day", 0), ("state", 0)]


def test_snapshot_that_was_not_stored_is_repeated() -> None:
    """A failed commit loses no slot: the next snapshot has it again, with newer contents."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(1, tenants={"acme": 1})))
    finish(traffic.snapshot())

    finish(traffic.apply(bucket(2, tenants={"acme": 1})))

    assert kinds(stored(traffic)) == [("minute", 5), ("minute", 10), ("day", 0), ("state", 0)]


def test_snapshot_names_the_first_slot_that_is_still_needed() -> None:
    """Slots that a window has passed are neither stored nor kept; state has no slots."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(1, tenants={"acme": 1})))
    traffic.advance(100_000)

    records, expired = finish(traffic.snapshot())

    assert kinds(records) == [("state", 0)]
    assert expired == {
        "request_rate": 99_990,
        "minute": 99_940,
        "day": 10_800,
        "rate_limited": 99_940,
        "errors": 99_690,
        "latencies": 99_690,
        "failures_by_upstream": 99_690,
        "upstreams": 99_690,
    }


def test_restored_traffic_equals_the_stored_one() -> None:
    """Counts, maxima, limited requests, names and streaks survive the loss of the process."""
    thresholds = Thresholds(master_rpm=2, global_qps=0.1)
    traffic = ObservedTraffic(thresholds, max_subjects=5)
    failed = {"tenant": "7", "tenant_name": "Acme", "provider": "claude", "status": 500}
    traffic.observe_all([exchange(api_key="k1", **failed) for _ in range(100)], 1000.0)
    traffic.observe(exchange(tenant="7", limited=True), 1001.0)
    begin_evaluation(traffic)
    traffic.observe(exchange(tenant="7", limited=True), 1020.0)

    restored = Traffic(thresholds, max_subjects=5)
    assert finish(restored.restore(stored(traffic), 1020.0)) == 0

    for window, copy in zip(
        traffic.counts.by_kind.values(), restored.counts.by_kind.values(), strict=True
    ):
        assert list(copy.items()) == list(window.items())
        assert list(copy.maxima()) == list(window.maxima())
    assert list(restored.limited.items()) == [("7", 1)]
    assert dict(restored.tenant_names) == {"7": "Acme"}
    assert dict(restored.key_tenants) == {"k1": "7"}
    assert list(restored.upstreams.items()) == list(traffic.upstreams.items())
    assert kinds(stored(restored)) == [("state", 0)]


def test_traffic_counted_after_a_restoration_is_added_to_its_slot() -> None:
    """The next leader stores the whole slot, also what an earlier leader has counted."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(1, tenants={"acme": 1})))
    restored, again = (Traffic(Thresholds(), max_subjects=5) for _ in range(2))
    finish(restored.restore(stored(traffic), 1020.0))

    finish(restored.apply(bucket(1, tenants={"acme": 2})))

    finish(again.restore(stored(restored), 10.0))
    assert again.counts.minute.get("acme") == (3, 0)


@pytest.mark.parametrize("changed", [{"payload": b"\xc1"}, {"protocol": 2}])
@pytest.mark.parametrize("kind", ["minute", "state"])
def test_record_that_cannot_be_read_is_skipped(
    changed: dict[str, Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is restored, and the log names the skipped record."""
    traffic = Traffic(Thresholds(master_rpd=1), max_subjects=5)
    finish(traffic.apply(bucket(1, tenants={"acme": 1})))
    records = [
        replace(record, **changed) if record.kind == kind else record for record in stored(traffic)
    ]

    restored = Traffic(Thresholds(master_rpd=1), max_subjects=5)
    skipped = finish(restored.restore(records, 10.0))

    assert skipped == 1
    assert restored.counts.day.get("acme") == (1, 0)
    assert list(restored.counts.day.maxima()) == [("acme", 1, 0)]
    assert restored.counts.minute.get("acme") == ((0, 0) if kind == "minute" else (1, 0))
    (log,) = caplog.records
    assert log.levelname == "ERROR"
    slot = 5 if kind == "minute" else 0
    assert log.message.startswith(f"stored traffic skipped: kind={kind} slot={slot} error=")


def test_stored_latency_beyond_the_bounds_is_skipped() -> None:
    """Rules index a histogram with the number of a latency bucket."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    finish(traffic.apply(bucket(1, latencies={("claude", 11): 1})))

    restored = Traffic(Thresholds(), max_subjects=5)
    skipped = finish(restored.restore(stored(traffic), 1020.0))

    assert (skipped, list(restored.counts.latencies.items())) == (1, [])


def test_traffic_of_a_later_time_is_skipped_and_emptied(caplog: pytest.LogCaptureFixture) -> None:
    """If the clock of the store was set back, windows count at once, and never count it again."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    claude = ("provider", "claude")
    outcomes = Outcomes(last_success=11_000_000_000, failed_at=[11_000_000_001])
    finish(traffic.apply(bucket(100, tenants={"acme": 1})))
    finish(traffic.apply(bucket(2200, tenants={"acme": 1}, outcomes={claude: outcomes})))
    records = stored(traffic)

    restored = Traffic(Thresholds(), max_subjects=5)
    assert finish(restored.restore(records, 3600.0)) == 2
    assert caplog.messages == [
        "clock of the alert store was set back, traffic of a later time skipped: slots=2"
    ]
    finish(restored.apply(bucket(720, tenants={"acme": 1})))

    assert restored.counts.minute.get("acme") == (1, 0)
    assert restored.counts.day.get("acme") == (2, 0)
    assert dict(restored.upstreams.items())[claude].failed_at == [3_600_000_000]
    overwritten = {(record.kind, record.slot): record for record in records + stored(restored)}
    successor = Traffic(Thresholds(), max_subjects=5)
    assert finish(successor.restore(overwritten.values(), 11_000.0)) == 0
    assert successor.counts.day.get("acme") == (2, 0)
    assert kinds(stored(restored)) == [("state", 0)]


def test_records_of_other_kinds_are_ignored() -> None:
    """The caller can store state of its own beside the traffic."""
    traffic = Traffic(Thresholds(), max_subjects=5)

    assert finish(traffic.restore([WindowRecord("outages", 0, 1, b"{}")], 0.0)) == 0


def test_error_rates_of_other_thresholds_are_not_restored() -> None:
    """Failures that were counted by other thresholds are left out without an error."""
    traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(tenant="acme", api_key="k1", status=500), 0)

    restored = Traffic(Thresholds(count_client_errors=True), max_subjects=5)
    assert finish(restored.restore(stored(traffic), 1020.0)) == 0

    assert list(restored.errors.items()) == []
    assert restored.counts.day.get("acme") == (1, 0)
