"""Header dialects."""

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


def written(name: str, policies: Sequence[Policy], *decisions: Decision) -> dict[str, str]:
    """The headers that dialect `name` writes."""
    fields: RawHeaders = []
    chosen = dialect(name, policies)
    if chosen is not None:
        fields = chosen.write(decisions)
    return {field.decode(): value.decode() for field, value in fields}


def parsed(value: str) -> Any:
    """A structured field's items and their parameters."""
    items: Any = http_sf.parse(value.encode(), tltype="list")
    return [(item, parameters) for item, parameters in items]


def test_draft_11_tells_what_is_left_and_for_how_long() -> None:
    """The policy never changes; what remains does, with the time left rounded up."""
    decision = Decision(True, 100, 42, 30.2, 0.0)

    assert written("draft-11", [Policy("100/minute")], decision) == {
        "ratelimit-policy": '"default";q=100;w=60',
        "ratelimit": '"default";r=42;t=31',
    }


def test_draft_11_lists_every_policy_that_was_asked() -> None:
    """Each is an item, with its unit where that is not requests; a policy not asked is left out."""
    fields = written(
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
def test_draft_11_is_always_structured_fields(remaining: int, left: float, name: str) -> None:
    """A public parser reads whatever is written (RFC 9651)."""
    policy = Policy(Limiter("100/minute"), name=name)
    fields = written("draft-11", [policy], Decision(True, 100, remaining, left, 0.0, name))

    ((item, parameters),) = parsed(fields["ratelimit"])
    assert (item, parameters["r"]) == (name, remaining)
    assert parameters.get("t", 0) >= left - 0.001
    assert parsed(fields["ratelimit-policy"]) == [(name, {"q": 100, "w": 60})]


@pytest.mark.parametrize("strategy", ["fixed-window", "sliding-window-counter", "gcra"])
@pytest.mark.parametrize("used", [1, 30, 59, 60])
def test_no_more_than_remains_can_be_used_until_it_is_said(strategy: str, used: int) -> None:
    """What `t` means in draft-11, whichever way is counted; then there is more."""
    clock = FakeClock(6000.0)
    limiter = Limiter("60/minute", strategy=strategy, clock=clock)
    for _ in range(used):
        decision = limiter.hit("client")
    clock.advance(1 / 3)
    told = limiter.peek("client", 0)

    fields = written("draft-11", [Policy(limiter)], told)
    ((_, parameters),) = parsed(fields["ratelimit"])

    assert decision.remaining == 60 - used
    assert 1 <= parameters["t"] <= 120
    clock.advance(told.reset_after if told.more_after is None else told.more_after)
    assert limiter.peek("client", 0).remaining > parameters["r"]


def test_what_is_kept_ready_is_right_and_bounded() -> None:
    """Headers that were written before are written again, however many there are."""
    writes = dialect("draft-11", [Policy("100000/minute")])
    assert writes is not None

    for _ in range(2):
        for remaining in range(5000):
            fields = writes.write([Decision(True, 100000, remaining, 60.0, 0.0)])
            assert fields[1] == (b"ratelimit", b'"default";r=%d;t=60' % remaining)


def test_numbers_have_fifteen_digits_at_most() -> None:
    """A debt that takes for ever is no reason to write what cannot be read (RFC 9651, 3.3.1)."""
    fields = written("draft-11", [Policy("1/minute")], Decision(False, 1, 0, 1e24, 1e24))

    assert parsed(fields["ratelimit"])[0][1]["t"] == 999_999_999_999_999


def test_no_more_time_is_left_than_a_window_has() -> None:
    """What floats add to it in rounding is no second more."""
    fields = written("draft-11", [Policy("1/minute")], Decision(True, 1, 0, 60.00000001, 0.0))

    assert fields["ratelimit"] == '"default";r=0;t=60'


@pytest.mark.parametrize(
    ("left", "written_as"),
    [(0.0, "0ms"), (0.0115, "12ms"), (8.1, "9s"), (360.0, "6m0s"), (3600.0, "1h0m0s")],
)
def test_the_dialect_of_openai(left: float, written_as: str) -> None:
    """Requests and tokens each by their tightest policy, and times as OpenAI writes them."""
    assert written(
        "openai",
        [PER_MINUTE, PER_DAY, TOKENS, AT_ONCE],
        Decision(True, 1000, 7, left, 0.0, "day"),
        Decision(True, 100, 99, 60.0, 0.0, "minute"),
        Decision(True, 5000, 4900, 30.0, 0.0, "tokens"),
        Decision(True, 8, 1, 0.0, 0.0, "at-once"),
    ) == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": written_as,
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "4900",
        "x-ratelimit-reset-tokens": "30s",
    }


def test_what_was_not_asked_is_not_told() -> None:
    """Where a policy is not for the request, the dialect of OpenAI leaves its unit out."""
    fields = written("openai", [PER_MINUTE, TOKENS], Decision(True, 100, 9, 8.0, 0.0, "minute"))

    assert list(fields) == [
        f"x-ratelimit-{each}-requests" for each in ("limit", "remaining", "reset")
    ]


def test_the_dialect_of_old() -> None:
    """The tightest policy alone, a refusal before all, with the seconds until it is reset."""
    assert written(
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
def test_places_are_no_requests_in_a_time(name: str) -> None:
    """These dialects have no words for a limit of requests at once, so they say nothing."""
    assert written(name, [AT_ONCE], Decision(True, 8, 1, 0.0, 0.0, "at-once")) == {}


def test_no_dialect_writes_nothing() -> None:
    """None switches the headers off."""
    assert dialect(None, [PER_MINUTE]) is None


def test_an_unknown_dialect_is_refused() -> None:
    """The error says what came and which there are."""
    with pytest.raises(ValueError, match=r"headers 'draft-3' is not a known dialect: .*'draft-11'"):
        dialect("draft-3", [PER_MINUTE])
