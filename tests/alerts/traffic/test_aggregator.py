"""Gathering of the traffic of one process in buckets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tokenpulse_mw import Models, TokenUsage
from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.traffic import OVERFLOW, Outcomes
from tokenpulse_mw.alerts.traffic.aggregator import TrafficAggregator
from tokenpulse_mw.alerts.traffic.bucket import (
    PROTOCOL,
    Bucket,
    Profile,
    decode_bucket,
    encode_bucket,
)
from tokenpulse_mw.alerts.traffic.rolling_window import SHIFT

from ..exchanges import exchange

CLAUDE = ("provider", "claude")


class Gathered:
    """An aggregator, and the buckets that it has sealed."""

    def __init__(self, *, max_subjects: int = 5, offset: float = 0.0, **thresholds: Any) -> None:
        self.buckets: list[Bucket] = []
        self.aggregator = TrafficAggregator(
            Thresholds(**thresholds),
            max_subjects=max_subjects,
            sealed=self.buckets.append,
            offset=offset,
        )

    def observe(self, *times: float, **fields: Any) -> None:
        """Observe an exchange with these fields at each time."""
        for now in times:
            self.aggregator.observe(exchange(**fields), now)

    def last(self, now: float = 1e6) -> Bucket:
        """Return the last bucket after all were sealed."""
        self.aggregator.seal(now)
        return self.buckets[-1]


def test_bucket_has_the_traffic_of_its_slot() -> None:
    """Requests, tokens and failures are counted by name, arrivals by second."""
    gathered = Gathered()
    usage = TokenUsage(input=10, output=5)
    fields = {"tenant": "7", "tenant_name": "Acme", "api_key": "k1", "provider": "claude"}
    gathered.observe(1000.0, 1000.9, 1003.5, usage=usage, **fields)
    gathered.observe(1004.0, status=500, **fields)
    gathered.observe(1004.5, status=429, limited=True, **fields)

    assert gathered.last() == Bucket(
        slot=200,
        profile=Profile.of(Thresholds()),
        arrivals=[2, 0, 0, 1, 2],
        tenants={"7": 5 | 45 << 40},
        tenant_names={"7": "Acme"},
        key_tenants={"k1": "7"},
        limited={"7": 1},
        rate_limited={"claude": 1 | 1 << 40},
        keys={"k1": 4 | 1 << 40},
        latencies={("claude", 0): 4 | 1 << 40},
        failures_by_upstream={("key", "k1", CLAUDE): 1, ("provider", "claude", CLAUDE): 1},
        upstreams={CLAUDE: 1},
        outcomes={
            CLAUDE: Outcomes(
                "claude", successes=3, last_success=1_003_500_000, failed_at=[1_004_000_001]
            )
        },
    )


def test_bucket_is_sealed_when_its_slot_has_ended() -> None:
    """The next exchange or `seal` passes the finished bucket on."""
    gathered = Gathered()
    gathered.observe(1, 4.9)
    assert gathered.buckets == []

    gathered.observe(5)
    assert [bucket.slot for bucket in gathered.buckets] == [0]
    gathered.aggregator.seal(9.9)
    assert [bucket.slot for bucket in gathered.buckets] == [0]
    gathered.aggregator.seal(10)
    assert [bucket.slot for bucket in gathered.buckets] == [0, 1]


def test_slot_without_traffic_has_no_bucket() -> None:
    """Neither silence nor preflights are sent."""
    gathered = Gathered()
    gathered.observe(1, method="OPTIONS")

    gathered.aggregator.seal(100, partial=True)

    assert gathered.buckets == []


def test_partial_seal_passes_the_open_bucket() -> None:
    """Later traffic of the slot is in a second bucket with the same slot."""
    gathered = Gathered()
    gathered.observe(1)
    gathered.aggregator.seal(2, partial=True)
    gathered.observe(3)

    gathered.aggregator.seal(4, partial=True)

    assert [bucket.slot for bucket in gathered.buckets] == [0, 0]
    assert [bucket.arrivals for bucket in gathered.buckets] == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]


def test_through_is_the_slot_before_the_current_one() -> None:
    """Everything up to it was sealed, also without traffic."""
    gathered = Gathered()
    assert gathered.aggregator.through(1000) == 199
    gathered.observe(1001)

    assert gathered.aggregator.through(1004.9) == 199
    assert gathered.buckets == []
    assert gathered.aggregator.through(1005) == 200
    assert [bucket.slot for bucket in gathered.buckets] == [200]


def test_slots_are_those_of_the_fleet() -> None:
    """The offset turns the engine's clock into fleet time."""
    gathered = Gathered(offset=1000.0)
    gathered.observe(2.5)

    bucket = gathered.last(5)

    assert (bucket.slot, bucket.arrivals) == (200, [0, 0, 1, 0, 0])


@pytest.mark.parametrize(("change", "slots"), [(100.0, [200, 221]), (0.25, [200, 201])])
def test_changed_offset_takes_effect_with_the_next_bucket(change: float, slots: list[int]) -> None:
    """The open bucket ends as it began."""
    gathered = Gathered(offset=1000.0)
    gathered.observe(1)
    gathered.aggregator.offset += change
    gathered.observe(4.9, 5)

    gathered.last()

    assert [bucket.slot for bucket in gathered.buckets] == slots
    assert [sum(bucket.arrivals) for bucket in gathered.buckets] == [2, 1]


def test_smaller_offset_never_moves_a_bucket_back() -> None:
    """Slots only increase, and each takes at most a tenth longer until fleet time is reached."""
    gathered = Gathered(offset=1000.0)
    gathered.observe(4)
    gathered.aggregator.offset -= 1
    gathered.observe(*(5 + number / 2 for number in range(40)))

    gathered.last()

    assert [bucket.slot for bucket in gathered.buckets] == [200, 201, 202, 203, 204]
    assert [sum(bucket.arrivals) for bucket in gathered.buckets] == [1, 11, 11, 10, 8]
    assert gathered.buckets[1].arrivals == [2, 2, 2, 2, 3]
    assert gathered.buckets[4].arrivals == [2, 2, 2, 2, 0]


@pytest.mark.parametrize(("offset", "slot"), [(1500.0, 300), (980.0, 196)])
def test_moved_bucket_counts_in_the_slot_of_the_new_time(offset: float, slot: int) -> None:
    """A first offset that was wrong is corrected at once, with the order of all outcomes."""
    gathered = Gathered(offset=1000.0)
    gathered.observe(1, 2, provider="claude")
    gathered.observe(2, provider="claude", status=500)

    gathered.aggregator.move(2.5, offset)
    gathered.observe(3, provider="claude", status=500)
    gathered.observe(6)

    first, second = gathered.last().slot, gathered.buckets[0]
    microseconds = int(offset * 1e6)
    assert (first, second.slot, second.arrivals) == (slot + 1, slot, [0, 1, 2, 1, 0])
    assert second.outcomes[CLAUDE].last_success == microseconds + 2_000_000
    assert second.outcomes[CLAUDE].failed_at == [
        microseconds + 2_000_001,
        microseconds + 3_000_001,
    ]


def test_aggregator_moved_before_any_traffic_begins_in_the_new_time() -> None:
    """Later offsets apply with the next bucket."""
    gathered = Gathered(offset=1000.0)
    gathered.aggregator.move(1.0, 2000.0)

    gathered.observe(2)

    assert gathered.aggregator.through(3) == 399
    assert gathered.last().slot == 400


def test_new_thresholds_seal_the_open_bucket() -> None:
    """A bucket counts all failures by the same thresholds."""
    gathered = Gathered()
    gathered.observe(1, status=404)
    gathered.aggregator.set_thresholds(Thresholds(count_client_errors=True))
    gathered.observe(2, status=404)

    gathered.last()

    assert [bucket.slot for bucket in gathered.buckets] == [0, 0]
    assert [bucket.keys for bucket in gathered.buckets] == [{"": 1}, {"": 1 | 1 << 40}]
    assert [bucket.profile.count_client_errors for bucket in gathered.buckets] == [False, True]


@pytest.mark.parametrize(
    ("outcomes", "failures"), [("xxx", 3), ("x.x", 1), (".xx", 2), ("xx.", 0), (".x.x.xx", 2)]
)
@pytest.mark.parametrize("partial", [False, True])
def test_outcomes_are_in_order_while_the_clock_stands_still(
    outcomes: str, failures: int, partial: bool
) -> None:
    """A success ends all earlier failures, and a failure after it counts, over all buckets."""
    gathered = Gathered()
    for outcome in outcomes:
        gathered.observe(1, provider="claude", status=200 if outcome == "." else 500)
        if partial:
            gathered.aggregator.seal(1, partial=True)

    gathered.last()
    result = Outcomes()
    for bucket in reversed(gathered.buckets):
        result.merge(bucket.outcomes[CLAUDE])

    assert result.failures == failures
    assert result.successes == outcomes.count(".")
    assert result.ended == outcomes.count("x") - failures


def test_last_success_is_that_of_any_tenant() -> None:
    """The order in which tenants were first seen does not matter."""
    gathered = Gathered()
    for now, tenant in ((1, "a"), (1.25, "b"), (1.5, "a")):
        gathered.observe(now, tenant=tenant, provider="claude")

    assert gathered.last().outcomes[CLAUDE].last_success == 1_500_000


def test_outcomes_are_in_order_if_fleet_time_moves_back() -> None:
    """A success after a smaller offset still ends the failures before it."""
    gathered = Gathered(offset=1000.0)
    gathered.observe(1, provider="claude", status=500)
    gathered.aggregator.offset -= 500
    gathered.observe(6, provider="claude")

    gathered.last()
    result = Outcomes()
    for bucket in gathered.buckets:
        result.merge(bucket.outcomes[CLAUDE])

    assert (result.failures, result.successes) == (0, 1)


def test_name_of_an_upstream_is_its_last_known_provider() -> None:
    """A failure without a provider does not remove the name of a credential."""
    gathered = Gathered()
    for provider in ("claude", "unknown"):
        gathered.observe(1, provider=provider, credential="c1", status=500)

    assert gathered.last().outcomes["apikey", "c1"].name == "claude"


def test_names_beyond_four_times_max_subjects_are_counted_as_overflow() -> None:
    """A flood of names of each kind does not use unbounded memory; the sums stay exact."""
    gathered = Gathered(max_subjects=1)
    for number in range(6):
        name = str(number)
        fields = {"provider": name, "credential": name, "tenant": name, "tenant_name": name}
        gathered.observe(1, api_key=name, status=500, **fields)
        gathered.observe(1, limited=True, status=429, **fields)

    bucket = gathered.last()

    first = dict.fromkeys("0123", 1)
    assert bucket.limited == first | {OVERFLOW: 2}
    assert bucket.tenants == dict.fromkeys("0123", 2) | {OVERFLOW: 4}
    assert bucket.tenant_names == {name: name for name in "0123"}
    assert bucket.keys == {
        name: count | count << 40 for name, count in (first | {OVERFLOW: 2}).items()
    }
    assert bucket.rate_limited == bucket.keys
    assert bucket.latencies == {(name, 0): count for name, count in bucket.keys.items()}
    assert bucket.upstreams == {("apikey", name): 1 for name in "0123"} | {("", OVERFLOW): 2}
    assert len(bucket.failures_by_upstream) == 5
    assert sum(bucket.failures_by_upstream.values()) == 12
    assert list(bucket.outcomes) == [("apikey", name) for name in "0123"]
    # Two names of 7 kinds, 4 requests of tenants, and 8 failures by upstream.
    assert gathered.aggregator.overflowed == 2 + 4 + 2 + 2 + 2 + 2 + 8
    assert decode_bucket(encode_bucket(bucket), PROTOCOL) == bucket


def test_tenant_named_as_the_overflow_is_counted_separately() -> None:
    """A client cannot hide among the names beyond the limit."""
    gathered = Gathered()
    gathered.observe(1, tenant=OVERFLOW, api_key=OVERFLOW)

    bucket = gathered.last()

    assert list(bucket.tenants) == list(bucket.keys) == [f"{OVERFLOW}_"]


def test_name_that_is_not_valid_utf_8_is_escaped() -> None:
    """One invalid name does not prevent the encoding of all others."""
    gathered = Gathered()
    fields = {"tenant": "a\udc80", "tenant_name": "\udc80", "api_key": "k\udc80"}
    gathered.observe(1, provider="p\udc80", credential="c\udc80", status=500, **fields)
    gathered.observe(1, tenant="café", tenant_name="Café")

    bucket = gathered.last()

    assert decode_bucket(encode_bucket(bucket), PROTOCOL) == bucket
    assert bucket.tenant_names == {"a\\udc80": "\\udc80", "café": "Café"}
    assert list(bucket.tenants) == ["a\\udc80", "café"]
    assert list(bucket.outcomes) == [("apikey", "c\\udc80")]


def test_any_number_of_rows_and_classes_is_counted_once() -> None:
    """Rows are counted when there are many, without losing or repeating any."""
    gathered = Gathered(max_subjects=5000)
    for now in (1, 2):
        for number in range(1500):
            gathered.observe(now, tenant=str(number), credential=str(number % 700))

    bucket = gathered.last()

    assert bucket.arrivals == [0, 1500, 1500, 0, 0]
    assert bucket.tenants == {str(number): 2 for number in range(1500)}
    assert sum(outcomes.successes for outcomes in bucket.outcomes.values()) == 3000


def test_invalid_exchange_does_not_affect_others() -> None:
    """An error of `observe` loses no exchange before or after it."""
    gathered = Gathered()
    gathered.observe(1, api_key="k1")

    with pytest.raises(TypeError):
        gathered.observe(1, api_key=["k1"])

    gathered.observe(1, api_key="k1")
    assert gathered.last().keys == {"k1": 2}


def test_usage_is_counted_by_tenant_model_and_provider() -> None:
    """Only responses of models count, with tokens and cost; unknown costs are counted too."""
    gathered = Gathered()
    usage = TokenUsage(10, 5, cache_read=4, cache_write=3, reasoning=2)
    fields = {"tenant": "acme", "model": "gpt-5", "provider": "openai", "usage_source": "reported"}
    gathered.observe(1000.0, 1001.0, usage=usage, cost_nanos=70, **fields)
    gathered.observe(1002.0, usage=usage, cost_nanos=1, cost_is_minimum=True, **fields)
    gathered.observe(1002.5, provider="openai", usage_source="missing")
    gathered.observe(1003.0, tenant="acme", provider="openai")

    assert gathered.last().usage == {
        ("acme", "gpt-5", "openai"): [3, 30, 15, 12, 9, 6, 141, 1],
        ("", "unknown", "openai"): [1, 0, 0, 0, 0, 0, 0, 1],
    }


def test_usage_beyond_the_bound_is_counted_as_overflow() -> None:
    """Any number of tenants uses a bounded number of rows in an hour; no request is lost."""
    gathered = Gathered(max_subjects=2)
    for number in range(600):
        fields = {"provider": "openai", "usage_source": "missing", "model": "m"}
        gathered.observe(3000.0 + number, tenant=f"t{number}", **fields)
    gathered.observe(3599.5, tenant="t0", **fields)
    gathered.observe(3600.5, tenant="t700", **fields)
    gathered.aggregator.seal(1e6)

    rows = [record for bucket in gathered.buckets for record in bucket.records(5)]

    hour = Counter(record.tenant for record in rows if record.hour == 0)
    assert sum(record.requests for record in rows) == 602
    assert hour.keys() == {"t0", "t1", OVERFLOW}
    assert {record.tenant for record in rows if record.hour == 1} == {"t700"}


def test_usage_is_counted_by_the_label_of_the_model() -> None:
    """Names of models that mean the same share a row."""
    buckets: list[Bucket] = []
    aggregator = TrafficAggregator(
        Thresholds(),
        max_subjects=5,
        sealed=buckets.append,
        model_label=lambda exchange: str(exchange.model).partition("@")[0],
    )
    for model in ("gpt-5@2026", "gpt-5@2027"):
        aggregator.observe(exchange(model=model, usage_source="missing", tenant="\ud800"), 1000.0)
    aggregator.seal(1e6)

    assert {key: counts[0] for key, counts in buckets[0].usage.items()} == {
        ("\\ud800", "gpt-5", "unknown"): 2
    }


def test_model_has_its_own_row_from_its_first_response() -> None:
    """A failed request before the first response does not change the row of the response."""
    buckets: list[Bucket] = []
    aggregator = TrafficAggregator(
        Thresholds(), max_subjects=5, sealed=buckets.append, model_label=Models().label_of
    )
    for status in (500, 200):
        fields: dict[str, Any] = {"usage_source": "missing", "model_source": "response"}
        aggregator.observe(exchange(model="gpt-5", status=status, **fields), 1000.0)
    aggregator.seal(1e6)

    assert {model: counts[0] for (_, model, _), counts in buckets[0].usage.items()} == {
        "other": 1,
        "gpt-5": 1,
    }


def test_many_tenants_in_one_slot_are_all_counted() -> None:
    """The bound of the rows that are found fast changes no count."""
    gathered = Gathered(max_subjects=1000)
    for number in (*range(300), 0):
        gathered.observe(1000.0, tenant=f"t{number}", usage_source="missing", cost_nanos=1)
    gathered.aggregator.seal(1e6)

    rows = [record for bucket in gathered.buckets for record in bucket.records(5)]
    costs = Counter[str]()
    for record in rows:
        costs[record.tenant] += record.cost_nanos
    assert costs == {"t0": 2, **{f"t{number}": 1 for number in range(1, 300)}}


def test_annotated_cost_counts_without_usage() -> None:
    """The bill of a tenant has each cost, also that of a response without tokens."""
    gathered = Gathered()
    gathered.observe(1000.0, tenant="acme", provider="openai", cost_nanos=7)

    assert gathered.last().usage == {("acme", "unknown", "openai"): [1, 0, 0, 0, 0, 0, 7, 0]}


def test_many_names_are_gathered_in_several_buckets_of_a_slot() -> None:
    """Encoding a bucket is one step of the event loop, so its number of names is bounded."""
    gathered = Gathered(max_subjects=20_000)
    for number in range(5000):
        gathered.observe(1000.0, api_key=f"k{number}", status=500)
    gathered.aggregator.seal(1e6)

    assert len(gathered.buckets) > 1
    assert {bucket.slot for bucket in gathered.buckets} == {200}
    assert max(len(bucket.keys) for bucket in gathered.buckets) < 2500
    counts = [count for bucket in gathered.buckets for count in bucket.keys.values()]
    assert len(counts) == 5000
    assert set(counts) == {1 | 1 << SHIFT}


def test_names_of_a_process_are_bounded() -> None:
    """Names of the least recent tenants are dropped, and new ones of a full bucket ignored."""
    gathered = Gathered(max_subjects=1)
    for number in range(5):
        name = {"tenant": f"t{number}", "tenant_name": f"T{number}", "api_key": f"k{number}"}
        gathered.observe(0, credential=f"c{number}", credential_group=f"g{number}", **name)

    bucket = gathered.last()
    assert dict(gathered.aggregator.tenant_names) == {"t4": "T4"}
    assert bucket.tenant_names == {f"t{number}": f"T{number}" for number in range(4)}
    assert bucket.key_tenants == {f"k{number}": f"t{number}" for number in range(4)}
    assert {upstream[1]: outcomes.group for upstream, outcomes in bucket.outcomes.items()} == {
        f"c{number}": f"g{number}" for number in range(4)
    }
    assert decode_bucket(encode_bucket(bucket), PROTOCOL) == bucket


def test_response_over_a_websocket_counts_tokens_and_no_request() -> None:
    """The tenant has its tokens, its name and its usage; the handshake was the only request."""
    gathered = Gathered()
    fields = {"tenant": "7", "tenant_name": "Acme", "model": "gpt-5", "provider": "openai"}
    gathered.observe(1000.0, status=101, method="GET", tenant="7", provider="openai")
    for now in (1001.0, 1002.0):
        response = exchange(
            status=101, usage=TokenUsage(10, 5), usage_source="reported", cost_nanos=7, **fields
        )
        gathered.aggregator.observe_usage(response, now)
    missing = exchange(status=101, usage_source="missing", **fields)
    gathered.aggregator.observe_usage(missing, 1003.0)

    bucket = gathered.last()
    assert bucket.arrivals == [1, 0, 0, 0, 0]
    assert bucket.tenants == {"7": 1 | 30 << SHIFT}
    assert bucket.tenant_names == {"7": "Acme"}
    assert bucket.usage == {("7", "gpt-5", "openai"): [3, 20, 10, 0, 0, 0, 14, 1]}
    assert sum(count & (1 << SHIFT) - 1 for count in bucket.latencies.values()) == 1


def test_responses_over_websockets_are_counted_in_the_slot_in_which_they_end() -> None:
    """A connection may last for many slots, of which only those with a response have traffic."""
    gathered = Gathered()
    for now in (1000.0, 1007.0):
        response = exchange(tenant="7", usage=TokenUsage(1, 2), usage_source="reported")
        gathered.aggregator.observe_usage(response, now)
    gathered.aggregator.seal(1e6)

    assert [(bucket.slot, bucket.tenants) for bucket in gathered.buckets] == [
        (200, {"7": 3 << SHIFT}),
        (201, {"7": 3 << SHIFT}),
    ]


def test_many_tenants_of_websockets_are_gathered_in_several_buckets_of_a_slot() -> None:
    """The number of names of a bucket is bounded for responses over WebSockets, too."""
    gathered = Gathered(max_subjects=20_000)
    for number in range(5000):
        response = exchange(tenant=f"t{number}", usage=TokenUsage(1), usage_source="reported")
        gathered.aggregator.observe_usage(response, 1000.0)
    gathered.aggregator.seal(1e6)

    assert max(len(bucket.tenants) for bucket in gathered.buckets) < 2500
    assert sum(len(bucket.tenants) for bucket in gathered.buckets) == 5000


def test_tenants_of_websockets_beyond_the_bound_are_counted_as_overflow() -> None:
    """Four times `max_subjects` tenants are counted separately."""
    gathered = Gathered(max_subjects=1)
    for number in range(6):
        response = exchange(tenant=f"t{number}", usage=TokenUsage(1), usage_source="reported")
        gathered.aggregator.observe_usage(response, 1000.0)

    assert gathered.last().tenants[OVERFLOW] == 2 << SHIFT
    assert gathered.aggregator.overflowed == 0  # counts requests
