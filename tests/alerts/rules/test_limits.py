"""Limits that were hit: a master's, and a provider's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alerts.exchanges import exchange
from tests.alerts.rules.views import View, severities
from tokenpulse_mw.alerts import Finding, Severity, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.rules import rate_limit, rate_limit_exceeded


def test_a_limited_master_is_found_with_how_often() -> None:
    """Being limited once is worth a warning, and the finding says how often it was."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for _ in range(3):
        traffic.observe(exchange(master="acme", limited=True), now=0)

    (found,) = rate_limit(traffic, Thresholds(), 0)

    assert found == Finding(
        type="rate_limit",
        subject=Subject("master", "acme"),
        severity="warning",
        title="Master 'acme' is rate limited",
        message="Master 'acme' was rate limited 3 times since the last round",
        value=3,
        metadata={"limited": 3},
    )
    assert found.fingerprint == "rate_limit:master:acme"


def test_without_masters_it_is_the_gateway_that_is_limited() -> None:
    """A gateway that tells no tenants apart has one alert."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    traffic.observe(exchange(limited=True), now=0)

    (found,) = rate_limit(traffic, Thresholds(), 0)

    assert found.fingerprint == "rate_limit:system:0"
    assert found.subject == Subject("system", "0", "gateway")
    assert found.title == "The gateway is rate limited"


def test_defect_13_a_limit_hit_between_two_rounds_is_found_in_the_next_and_ends_after_it() -> None:
    """What counts is the whole round, and not the instant of the look."""
    view = View()
    view.see(now=1, master="acme", limited=True)

    assert severities(view.ask(rate_limit, now=59)) == {"rate_limit:master:acme": "warning"}
    assert view.ask(rate_limit, now=119) == []


def test_a_provider_that_answers_with_429_too_often_is_found_with_its_numbers() -> None:
    """It must last for two minutes, and says how many of them were our own."""
    view = View()
    view.see(8, provider="claude", status=429)
    view.see(5, provider="claude", status=429, limited=True)

    assert view.ask(rate_limit_exceeded) == [
        Finding(
            type="rate_limit_exceeded",
            subject=Subject("provider", "claude", "claude"),
            severity="warning",
            title="Provider 'claude' answers with 429 (13 in a minute)",
            message="Provider 'claude' had 13 answers of 429 in a minute "
            "(5 by our own limit), more than 10",
            value=13,
            metadata={"refused": 13, "ours": 5, "threshold": 10, "window": "1m"},
            hold_for=120,
        )
    ]


@pytest.mark.parametrize(
    ("times", "found"), [(7, []), (8, [None]), (10, [None]), (11, ["warning"])]
)
def test_ten_answers_of_429_in_a_minute_are_allowed(
    times: int, found: list[Severity | None]
) -> None:
    """More than that fires, and it ends below 80 % of it."""
    view = View()
    view.see(times, provider="claude", status=429)

    assert [each.severity for each in view.ask(rate_limit_exceeded)] == found


def test_429s_of_nobody_known_are_the_gateways() -> None:
    """Where a limit refuses before the provider is known it is the gateway's."""
    view = View()
    view.see(11, limited=True, status=429)

    assert severities(view.ask(rate_limit_exceeded)) == {"rate_limit_exceeded:system:0": "warning"}


def test_no_requests_are_no_429s() -> None:
    """Silence ends it: nobody is refused."""
    view = View()
    view.see(11, provider="claude", status=429)
    assert len(view.ask(rate_limit_exceeded)) == 1

    assert view.ask(rate_limit_exceeded, now=66) == []


@pytest.mark.parametrize("chosen", [{"provider_429_rpm": None}, {"provider_429_rpm": 1000}])
def test_429s_are_compared_with_the_threshold_if_there_is_one(chosen: dict[str, Any]) -> None:
    """None switches the rule off."""
    view = View(**chosen)
    view.see(11, provider="claude", status=429)

    assert view.ask(rate_limit_exceeded) == []
