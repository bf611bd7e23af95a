"""Health of the providers, derived from exchanges."""

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
    {"status": 502, "outcome": "client_disconnect"},
    {"status": 200, "method": "OPTIONS"},
    {"status": 500, "method": "OPTIONS"},
]


def exchange(**fields: Any) -> Exchange:
    """Return a finished exchange with claude."""
    values: dict[str, Any] = {"method": "POST", "provider": "claude", **fields}
    return Exchange(started=0.0, **values)


def provider_health(clock: FakeClock, **options: Any) -> ProviderHealth:
    """Return the health of claude and gemini, with a threshold of three failures."""
    options = {"failures": 3, "clock": clock, "wall": FakeClock(0.0), **options}
    return ProviderHealth(["claude", "gemini"], **options)


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_consecutive_failures_make_a_provider_unhealthy(
    failure: dict[str, Any], clock: FakeClock
) -> None:
    """Two failures do not, and one success ends it."""
    health = provider_health(clock)

    results = [health.unhealthy()]
    for fields in (failure, failure, failure, GOOD):
        health(exchange(**fields))
        results.append(health.unhealthy())

    assert results == [[], [], [], ["claude"], []]


@pytest.mark.parametrize("neutral", NEUTRAL, ids=str)
def test_neutral_exchange_does_not_count(neutral: dict[str, Any], clock: FakeClock) -> None:
    """A neutral exchange is not a failure, and does not end a sequence of failures."""
    health = provider_health(clock)

    for fields in (FAILURES[0], neutral, FAILURES[1], neutral):
        health(exchange(**fields))
    assert health.unhealthy() == []
    health(exchange(**FAILURES[2]))
    health(exchange(**neutral))
    assert health.unhealthy() == ["claude"]


@given(st.lists(st.sampled_from([GOOD, FAILURES[0], NEUTRAL[0]])))
def test_failures_since_the_last_success_count(exchanges: list[dict[str, Any]]) -> None:
    """Earlier failures and neutral exchanges do not."""
    health = provider_health(FakeClock())
    failures = 0
    for fields in exchanges:
        health(exchange(**fields))
        failures = 0 if fields is GOOD else failures + (fields is FAILURES[0])

    assert health.unhealthy() == (["claude"] if failures >= 3 else [])


def test_provider_without_traffic_becomes_healthy(clock: FakeClock) -> None:
    """A gateway that no longer uses it would otherwise report it forever."""
    health = provider_health(clock, forget_after=60)
    for _ in range(3):
        health(exchange(status=500))

    clock.advance(59.9)
    assert health.unhealthy() == ["claude"]
    clock.advance(0.1)
    assert health.unhealthy() == []


def test_undeclared_providers_are_ignored(clock: FakeClock) -> None:
    """Memory does not grow with the names in the traffic."""
    health = provider_health(clock)

    for number in range(100):
        health(exchange(status=500, provider=f"name {number}"))

    assert (health.unhealthy(), health.report()) == ([], {})


def test_report_lists_providers_with_traffic(clock: FakeClock) -> None:
    """The report has the consecutive failures and the age of the last success."""
    health = provider_health(clock)
    health(exchange(status=200, provider="gemini"))
    clock.advance(5)
    for _ in range(3):
        health(exchange(status=500))
    report = {name: observation.result for name, observation in health.report().items()}

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
        (
            {"providers": "claude"},
            r"^providers must be a list of strings, such as .*, got 'claude'$",
        ),
        ({"failures": 0}, r"^failures must be an integer of at least 1, got 0$"),
        ({"failures": "3"}, r"^failures must be an integer of at least 1, got '3'$"),
        ({"forget_after": 0}, r"^forget_after must be a number above 0, got 0$"),
        ({"forget_after": "9"}, r"^forget_after must be a number above 0, got '9'$"),
    ],
)
def test_invalid_argument_is_rejected(options: dict[str, Any], message: str) -> None:
    """The error names the parameter and the value it got."""
    with pytest.raises(ValueError, match=message):
        ProviderHealth(**options)
