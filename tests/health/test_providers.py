"""How the providers fare, from the traffic alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Exchange
from tokenpulse_mw.health import ProviderHealth

from ..support.clock import FakeClock

GOOD = {"status": 200}
FAILURES: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 503},
    {"status": 200, "outcome": "error"},
    {"status": 200, "outcome": "truncated"},
]
NEUTRAL: list[dict[str, Any]] = [
    {"status": 302},
    {"status": 400},
    {"status": 401},
    {"status": 429},
    {"status": 429, "limited": True},
    {"status": 503, "limited": True},
    {"status": 499, "outcome": "client_disconnect"},
    {"status": 200, "outcome": "client_disconnect"},
    {"status": 200, "method": "OPTIONS"},
    {"status": 500, "method": "OPTIONS"},
]


def exchange(**fields: Any) -> Exchange:
    """A finished exchange with claude."""
    whole: dict[str, Any] = {"method": "POST", "provider": "claude", **fields}
    return Exchange(started=0.0, **whole)


def watching(clock: FakeClock, **options: Any) -> ProviderHealth:
    """Who watches claude, and calls three failures in a row trouble."""
    options = {"failures": 3, "clock": clock, "wall": FakeClock(0.0), **options}
    return ProviderHealth(["claude", "gemini"], **options)


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_failures_in_a_row_are_trouble(failure: dict[str, Any], clock: FakeClock) -> None:
    """One fewer is not, and one success ends it."""
    health = watching(clock)

    found = [health.unhealthy()]
    for fields in (failure, failure, failure, GOOD):
        health(exchange(**fields))
        found.append(health.unhealthy())

    assert found == [[], [], [], ["claude"], []]


@pytest.mark.parametrize("neutral", NEUTRAL, ids=str)
def test_what_is_not_the_providers_doing_says_nothing(
    neutral: dict[str, Any], clock: FakeClock
) -> None:
    """It neither ends a row of failures nor belongs to one."""
    health = watching(clock)

    for fields in (FAILURES[0], neutral, FAILURES[1], neutral):
        health(exchange(**fields))
    assert health.unhealthy() == []
    health(exchange(**FAILURES[2]))
    health(exchange(**neutral))
    assert health.unhealthy() == ["claude"]


@given(st.lists(st.sampled_from([GOOD, FAILURES[0], NEUTRAL[0]])))
def test_only_the_failures_since_the_last_success_count(seen: list[dict[str, Any]]) -> None:
    """Whatever came before, and whatever lay between."""
    health = watching(FakeClock())
    row = 0
    for fields in seen:
        health(exchange(**fields))
        row = 0 if fields is GOOD else row + (fields is FAILURES[0])

    assert health.unhealthy() == (["claude"] if row >= 3 else [])


def test_a_provider_that_nobody_asks_any_more_is_forgotten(clock: FakeClock) -> None:
    """A router that has turned away from it would keep it in trouble for ever."""
    health = watching(clock, forget_after=60)
    for _ in range(3):
        health(exchange(status=500))

    clock.advance(59.9)
    assert health.unhealthy() == ["claude"]
    clock.advance(0.1)
    assert health.unhealthy() == []


def test_who_was_not_declared_takes_no_memory(clock: FakeClock) -> None:
    """However many names the traffic has."""
    health = watching(clock)

    for number in range(100):
        health(exchange(status=500, provider=f"name {number}"))

    assert (health.unhealthy(), health.report()) == ([], {})


def test_the_report_tells_of_each_provider_that_was_heard_of(clock: FakeClock) -> None:
    """How often it failed in a row, and when it last succeeded."""
    health = watching(clock)
    health(exchange(status=200, provider="gemini"))
    clock.advance(5)
    for _ in range(3):
        health(exchange(status=500))
    report = {name: each.result for name, each in health.report().items()}

    claude = report["claude:consecutiveFailures"]
    gemini = report["gemini:consecutiveFailures"]
    assert (claude.status, claude.observed_value, claude.output) == (
        "warn",
        3,
        "last success: never",
    )
    assert (gemini.status, gemini.observed_value, gemini.output) == (
        "pass",
        0,
        "last success: 5 s ago",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"providers": "claude"}, r"^providers must be a list of names, got the string 'claude'$"),
        ({"failures": 0}, r"^failures must be a whole number, 1 or more, got 0$"),
        ({"failures": "3"}, r"^failures must be a whole number, 1 or more, got '3'$"),
        ({"forget_after": 0}, r"^forget_after must be a number of seconds above 0, got 0$"),
        ({"forget_after": "9"}, r"^forget_after must be a number of seconds above 0, got '9'$"),
    ],
)
def test_malformed_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    """A mistake shows at start."""
    with pytest.raises(ValueError, match=message):
        ProviderHealth(**options)
