"""Encoding and merging of buckets."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.traffic import Outcomes
from tokenpulse_mw.alerts.traffic.bucket import (
    PROTOCOL,
    Bucket,
    Profile,
    ReportKey,
    decode_bucket,
    encode_bucket,
    latency_bounds,
)

PROFILE = Profile.of(Thresholds())
OTHER = Profile.of(Thresholds(count_client_errors=True))


def counts(subjects: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[Any, int]]:
    """Return a strategy for packed counts."""
    packed = st.builds(lambda count, weight: count | weight << 40, NUMBER, NUMBER)
    return st.dictionaries(subjects, packed, max_size=3)


NUMBER = st.integers(0, 2**40 - 1)
NAME = st.sampled_from(["", "a", "b", "café"])
UPSTREAM = st.tuples(st.sampled_from(["provider", "apikey"]), NAME)
OUTCOMES = st.builds(
    Outcomes,
    name=NAME,
    successes=NUMBER,
    last_success=st.integers(0, 100),
    failed_at=st.lists(st.integers(1, 100), max_size=5).map(sorted),
    group=NAME,
)
USAGE = st.tuples(st.floats(0, 9), st.floats(1, 9), st.floats(0, 9))
BUCKETS = st.builds(
    Bucket,
    slot=st.just(7),
    profile=st.sampled_from([PROFILE, OTHER]),
    arrivals=st.lists(NUMBER, min_size=5, max_size=5),
    tenants=counts(NAME),
    tenant_names=st.dictionaries(NAME, NAME, max_size=3),
    key_tenants=st.dictionaries(NAME, NAME, max_size=3),
    limited=st.dictionaries(NAME, NUMBER, max_size=3),
    rate_limited=counts(NAME),
    keys=counts(NAME),
    latencies=counts(st.tuples(NAME, st.integers(0, 10))),
    failures_by_upstream=counts(st.tuples(st.sampled_from(["key", "provider"]), NAME, UPSTREAM)),
    upstreams=counts(UPSTREAM),
    outcomes=st.dictionaries(UPSTREAM, OUTCOMES, max_size=3),
    authentications=st.dictionaries(NAME, OUTCOMES, max_size=3),
    reports=st.dictionaries(st.builds(ReportKey, NAME, NAME, NAME), USAGE, max_size=3),
)


def merged(buckets: list[Bucket]) -> Bucket:
    """Return the traffic of buckets, merged in this order."""
    result = Bucket(7, PROFILE)
    for bucket in buckets:
        result.merge(bucket)
    return result


@given(bucket=BUCKETS)
def test_decoded_bucket_equals_the_encoded_one(bucket: Bucket) -> None:
    """The encoding loses nothing."""
    assert decode_bucket(encode_bucket(bucket), PROTOCOL) == bucket


@pytest.mark.parametrize("tokens", [2**24, 2**63 - 1])
def test_number_of_tokens_survives_the_encoding(tokens: int) -> None:
    """Count and weight have a column each, since both in one integer would exceed 64 bits."""
    bucket = Bucket(7, PROFILE, tenants={"acme": 1 | tokens << 40})

    assert decode_bucket(encode_bucket(bucket), PROTOCOL) == bucket


def test_absurd_number_of_tokens_is_limited() -> None:
    """A weight beyond 63 bits does not prevent the encoding of the others."""
    bucket = Bucket(7, PROFILE, tenants={"acme": 1 | 2**70 << 40, "umbrella": 2})

    decoded = decode_bucket(encode_bucket(bucket), PROTOCOL)

    assert decoded.tenants == {"acme": 1 | (2**63 - 1) << 40, "umbrella": 2}


@pytest.mark.parametrize("protocol", [0, 2])
def test_unknown_protocol_is_rejected(protocol: int) -> None:
    """Neither a reader nor a writer guesses what another version means."""
    bucket = Bucket(7, PROFILE)

    with pytest.raises(ValueError, match=f"protocol must be 1, got {protocol}: run the same"):
        encode_bucket(bucket, protocol)
    with pytest.raises(ValueError, match=f"protocol must be 1, got {protocol}"):
        decode_bucket(encode_bucket(bucket), protocol)


@given(bucket=BUCKETS, data=st.data())
def test_damaged_bucket_raises_value_error(bucket: Bucket, data: st.DataObject) -> None:
    """A changed, cut or extended payload is a bucket or a ValueError, never another error."""
    payload = bytearray(encode_bucket(bucket))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(payload) - 1))
        change = data.draw(st.binary(max_size=5))
        payload[position : position + data.draw(st.integers(0, 5))] = change or b"\x00"

    try:
        result = decode_bucket(bytes(payload), PROTOCOL)
    except ValueError:
        return
    assert decode_bucket(encode_bucket(result), PROTOCOL) == result


@pytest.mark.parametrize(
    "payload", [b"", b"\xc0", b"\xdd\xff\xff\xff\xff", b"\x9c" + b"\xdd\xff\xff\xff\xff" * 12]
)
def test_payload_that_is_not_a_bucket_raises_value_error(payload: bytes) -> None:
    """A length that the payload does not have allocates nothing."""
    with pytest.raises(ValueError, match=r"^(Input data was truncated|Expected)"):
        decode_bucket(payload, PROTOCOL)


def test_latency_bucket_beyond_the_bounds_raises_value_error() -> None:
    """Rules index a histogram with the number, so it must be within the bounds."""
    bucket = Bucket(7, PROFILE, latencies={("claude", len(PROFILE.bounds) + 1): 1})

    with pytest.raises(ValueError, match="latency bucket must be at most 10, got 11"):
        decode_bucket(encode_bucket(bucket), PROTOCOL)


@given(buckets=st.lists(BUCKETS, max_size=4), data=st.data())
def test_order_of_merging_changes_nothing(buckets: list[Bucket], data: st.DataObject) -> None:
    """Any order of the processes gives the same bucket."""
    shuffled = data.draw(st.permutations(buckets))

    assert merged(deepcopy(buckets)) == merged(deepcopy(shuffled))


@given(buckets=st.lists(BUCKETS, min_size=1, max_size=4))
def test_merging_does_not_change_the_merged_buckets(buckets: list[Bucket]) -> None:
    """A bucket can be merged again after a failure."""
    before = deepcopy(buckets)

    merged(buckets)

    assert buckets == before


def test_bucket_with_another_profile_is_merged_without_error_rates() -> None:
    """Counts of other kinds of failures cannot be added."""
    full: dict[str, Any] = {
        "arrivals": [1],
        "tenants": {"acme": 1},
        "tenant_names": {"acme": "Acme"},
        "limited": {"acme": 1},
        "rate_limited": {"claude": 1},
        "keys": {"k1": 1},
        "latencies": {("claude", 0): 1},
        "failures_by_upstream": {("key", "k1", ("provider", "claude")): 1},
        "upstreams": {("provider", "claude"): 1},
        "outcomes": {("provider", "claude"): Outcomes(failed_at=[1])},
    }

    result = merged([Bucket(7, OTHER, **full)])

    names = [field.name for field in fields(Bucket) if getattr(result, field.name)]
    assert set(full) - set(names) == {"keys", "latencies", "failures_by_upstream", "upstreams"}


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"master_rpm": 5, "error_rate": 0.5}, True),
        ({"error_window": 60}, False),
        ({"count_client_errors": True}, False),
        ({"provider_latency_p95": 1}, False),
        ({"provider_latency_p95": None}, False),
    ],
)
def test_profile_has_the_thresholds_that_change_what_is_counted(
    changed: dict[str, Any], same: bool
) -> None:
    """Other thresholds only change what counts are compared with."""
    assert (Profile.of(Thresholds(**changed)) == PROFILE) == same


def test_threshold_and_its_resolve_value_are_latency_bounds() -> None:
    """The share of latencies above either of them is exact."""
    assert {5, 4.0} <= set(latency_bounds(Thresholds()))
    assert latency_bounds(Thresholds(provider_latency_p95=None)) == ()
