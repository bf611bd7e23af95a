"""The rules that an engine has by itself, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.alerts.rules.views import View, found_by
from tokenpulse_mw.alerts import Finding, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.rules import Quotas, quota_exceeded, rule_name


def test_an_engine_that_is_given_no_rules_has_these() -> None:
    """All that need no more than the traffic, the seed's first."""
    assert [rule_name(rule) for rule in default_rules()] == [
        "rate_limit",
        "error_spike",
        "provider_down",
        "traffic_spike",
        "high_error_rate",
        "high_latency",
        "rate_limit_exceeded",
    ]


class Silent:
    """A rule of a user's own that finds nothing."""

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        """Find nothing."""
        return ()


def test_a_rule_is_called_by_its_own_word_else_by_what_it_is() -> None:
    """Any callable is a rule."""
    named: Any = Silent()
    named.name = "my_rule"

    assert rule_name(named) == "my_rule"
    assert rule_name(Silent()) == "Silent"
    assert rule_name(lambda traffic, thresholds, now: ()) == "<lambda>"


def test_traffic_that_never_was_gives_no_findings() -> None:
    """A gateway that has just started has no alerts."""
    view = View(global_qps=1, master_rpm=1, master_tpm=1, master_rpd=1, master_tpd=1)

    assert [found for rule in default_rules() for found in view.ask(rule)] == []


@pytest.mark.anyio
async def test_every_alert_outlasts_its_cause_for_as_long_as_is_asked_for() -> None:
    """`keep_firing` is one for all rules."""
    view = View(keep_firing=45, master_rpm=10, error_rate=0.1)
    view.see(20, master="acme", key="k1", provider="claude", status=502, duration=50.0)
    view.see(20, master="acme", provider="claude", status=429, limited=True)
    quotas = Quotas(lambda: [("k1", 10, 10)])
    await quotas.refresh()

    found: list[Finding] = []
    for rule in (*default_rules(), quota_exceeded(quotas)):
        found += found_by(rule, view.traffic, view.thresholds)

    assert len({each.type for each in found}) == 8
    assert {each.keep_firing for each in found} == {45}
