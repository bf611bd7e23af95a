"""Dialects of the rate limit headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Decision, InFlight, Limiter, Policy
from tokenpulse_mw.ratelimit.headers import RawHeaders, dialect

from ..support.clock import FakeClock

PER_MINUTE = Policy("100/minute", name="minute")
PER_DAY = Policy("1000/day", name="day")
TOKENS = Policy("5000/minute", name="tokens", tokens=100)
AT_ONCE = Policy(InFlight(8), name="at-once")


def headers_of(name: str, policies: Sequence[Policy], *decisions: Decision) -> dict[str, str]:
    """Return the headers that dialect `name` writes."""
    fields: RawHeaders = []
    writer = dialect(name, policies)
    if writer is not None:
        fields = writer.write(decisions)
    return {field.decode(): value.decode() for field, value in fields}


def parsed(value: str) -> Any:
    """Return the items of a structured field and their parameters."""
    items: Any = http_sf.parse(value.encode(), tltype="list")
    return [(item, parameters) for item, parameters in items]


def test_draft_11_states_remaining_requests_and_rounded_time() -> None:
    """`RateLimit` has the remaining requests, and the seconds rounded up."""
    decision = Decision(True, 100, 42, 30.2, 0.0)

    assert headers_of("draft-11", [Policy("100/minute")], decision) == {
        "ratelimit-policy": '"default";q=100;w=60',
        "ratelimit": '"default";r=42;t=31',
    }


def test_draft_11_lists_every_evaluated_policy() -> None:
    """A policy is an item with its unit, unless that is requests; others are left out."""
    fields = headers_of(
        "draft-11",
        [PER_MINUTE, PER_DAY, TOKENS, AT_ONCE],
        Decision(True, 100, 99, 60.0, 0.0, "minute"),
        Decision(True, 5000, 4900, 60.0, 0.0, "tokens"),
        Decision(True, 8, 7, 0.0, 0.0, "at-once"),
    )

    assert parsed(fields["ratelimit-policy"]) == [
        ("minute", {"q": 100, "w": 60}),
        ("tokens", {"q": 5000, "qu": "tokens", "w": 60}),
        ("at-once", {"q": 8, "qu": "concurrent-requests"}),
    ]
    assert parsed(fields["ratelimit"]) == [
        ("minute", {"r": 99, "t": 60}),
        ("tokens", {"r": 4900, "t": 60}),
        ("at-once", {"r": 7}),
    ]


@given(
    remaining=st.integers(0, 10**15 - 1),
    left=st.floats(0, 10**9),
    name=st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True),
)
def test_draft_11_writes_valid_structured_fields(remaining: int, left: float, name: str) -> None:
    """A public parser accepts the headers for any decision (RFC 9651)."""
    policy = Policy(Limiter("100/minute"), name=name)
    fields = headers_of("draft-11", [policy], Decision(True, 100, remaining, left, 0.0, name))

    ((item, parameters),) = parsed(fields["ratelimit"])
    assert (item, parameters["r"]) == (name, remaining)
    assert parameters.get("t", 0) >= left - 0.001
    assert parsed(fields["ratelimit-policy"]) == [(name, {"q": 100, "w": 60})]


@pytest.mark.parametrize("strategy", ["fixed-window", "sliding-window-counter", "gcra"])
@pytest.mark.parametrize("used", [1, 30, 59, 60])
def test_remaining_requests_grow_only_after_the_stated_time(strategy: str, used: int) -> None:
    """In draft-11, at most `r` requests are allowed in the next `t` seconds."""
    clock = FakeClock(6000.0)
    limiter = Limiter("60/minute", strategy=strategy, clock=clock)
    for _ in range(used):
        decision = limiter.hit("client")
    clock.advance(1 / 3)
    decision_now = limiter.peek("client", 0)

    fields = headers_of("draft-11", [Policy(limiter)], decision_now)
    ((_, parameters),) = parsed(fields["ratelimit"])

    assert decision.remaining == 60 - used
    assert 1 <= parameters["t"] <= 120
    clock.advance(
        decision_now.reset_after if decision_now.more_after is None else decision_now.more_after
    )
    assert limiter.peek("client", 0).remaining > parameters["r"]


def test_cached_headers_stay_correct_when_the_cache_overflows() -> None:
    """The headers match the decision for more decisions than the cache holds."""
    writer = dialect("draft-11", [Policy("100000/minute")])
    assert writer is not None

    for _ in range(2):
        for remaining in range(5000):
            fields = writer.write([Decision(True, 100000, remaining, 60.0, 0.0)])
            assert fields[1] == (b"ratelimit", b'"default";r=%d;t=60' % remaining)


def test_seconds_are_limited_to_fifteen_digits() -> None:
    """An integer of a structured field has at most 15 digits (RFC 9651, 3.3.1)."""
    fields = headers_of("draft-11", [Policy("1/minute")], Decision(False, 1, 0, 1e24, 1e24))

    assert parsed(fields["ratelimit"])[0][1]["t"] == 999_999_999_999_999


def test_float_error_adds_no_second() -> None:
    """A time just above the window is rounded down to the window."""
    fields = headers_of("draft-11", [Policy("1/minute")], Decision(True, 1, 0, 60.00000001, 0.0))

    assert fields["ratelimit"] == '"default";r=0;t=60'


@pytest.mark.parametrize(
    ("left", "duration"),
    [(0.0, "0ms"), (0.0115, "12ms"), (8.1, "9s"), (360.0, "6m0s"), (3600.0, "1h0m0s")],
)
def test_openai_dialect_states_the_tightest_policy_per_unit(left: float, duration: str) -> None:
    """Requests and tokens have separate headers, and durations in OpenAI's format."""
    assert headers_of(
        "openai",
        [PER_MINUTE, PER_DAY, TOKENS, AT_ONCE],
        Decision(True, 1000, 7, left, 0.0, "day"),
        Decision(True, 100, 99, 60.0, 0.0, "minute"),
        Decision(True, 5000, 4900, 30.0, 0.0, "tokens"),
        Decision(True, 8, 1, 0.0, 0.0, "at-once"),
    ) == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": duration,
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "4900",
        "x-ratelimit-reset-tokens": "30s",
    }


def test_openai_dialect_omits_unit_without_decision() -> None:
    """A unit has no headers if no policy with this unit applies to the request."""
    fields = headers_of("openai", [PER_MINUTE, TOKENS], Decision(True, 100, 9, 8.0, 0.0, "minute"))

    assert list(fields) == [
        f"x-ratelimit-{field}-requests" for field in ("limit", "remaining", "reset")
    ]


def test_legacy_dialect_states_the_rejecting_policy_first() -> None:
    """Only the tightest policy is stated; a rejection precedes all others."""
    assert headers_of(
        "legacy",
        [PER_MINUTE, PER_DAY],
        Decision(True, 100, 2, 10.5, 0.0, "minute"),
        Decision(False, 1000, 3, 7200.0, 7200.0, "day"),
    ) == {
        "x-ratelimit-limit": "1000",
        "x-ratelimit-remaining": "3",
        "x-ratelimit-reset": "7200",
    }


@pytest.mark.parametrize("name", ["openai", "legacy"])
def test_concurrency_limit_has_no_headers_in_other_dialects(name: str) -> None:
    """The openai and legacy dialects have no headers for concurrent requests."""
    assert headers_of(name, [AT_ONCE], Decision(True, 8, 1, 0.0, 0.0, "at-once")) == {}


def test_dialect_none_disables_the_headers() -> None:
    """None is a valid dialect without headers."""
    assert dialect(None, [PER_MINUTE]) is None


@pytest.mark.parametrize("name", ["draft-3", ["legacy"]])
def test_unknown_dialect_is_rejected(name: Any) -> None:
    """The error lists the dialects."""
    with pytest.raises(
        ValueError, match=r"^headers must be one of draft-11, openai, legacy, None, got "
    ) as caught:
        dialect(name, [PER_MINUTE])
    assert str(caught.value).endswith(f"got {name!r}")
