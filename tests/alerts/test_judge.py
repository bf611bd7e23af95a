"""The judge: from traffic to alerts, with no clock and nobody to wait for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alerts.exchanges import exchange
from tests.alerts.findings import Planned, finding
from tokenpulse_mw.alerts import Finding, Rule, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.episode import Episode, record_of
from tokenpulse_mw.alerts.judge import Judge
from tokenpulse_mw.alerts.lifecycle import Alert
from tokenpulse_mw.alerts.store import AlertRecord


def judge(*rules: Rule, reported: list[str] | None = None) -> Judge:
    """A judge who goes by these rules, and tells everybody everything."""
    heard = [] if reported is None else reported
    return Judge(
        rules,
        thresholds=Thresholds(),
        interval=60,
        cooldown=300,
        max_subjects=5,
        is_silenced=lambda finding, at: False,
        report=lambda component, error: heard.append(f"{component}: {type(error).__name__}"),
    )


def decided(judge: Judge, now: float, thresholds: Thresholds | None = None) -> tuple[Any, bool]:
    """What happened in a round, by rule, and whether it was a whole one."""
    news, whole = judge.decide(thresholds or Thresholds(), now, now + 1e9)
    return [[event.transition for event in each.events] for each in news], whole


def kept(found: Finding, **fields: Any) -> AlertRecord:
    """An alert that has fired at 0."""
    episode = Episode("a1", "planned", Alert(found, "firing", 0, 0), 0, 0, **fields)
    return record_of(episode, now=0, at=0)


def test_a_round_takes_the_alerts_of_every_rule_on() -> None:
    """Each on its own, and the round is a whole one."""
    one, other = Planned(finding(), name="one"), Planned(name="other")
    asked = judge(one, other)

    assert decided(asked, 0) == ([["fired"], []], True)
    one.found, other.found = [], [finding()]
    assert decided(asked, 60) == ([["resolved"], ["fired"]], True)


def test_a_rule_that_fails_makes_no_whole_round() -> None:
    """Whether it raises or finds what cannot be; the others go on, and it is reported."""

    def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        raise OSError

    odd: Any = finding(hold_for="a minute")
    reported: list[str] = []
    asked = judge(broken, Planned(odd, name="odd"), Planned(finding()), reported=reported)

    assert decided(asked, 0) == ([["fired"]], False)
    assert reported == ["rule broken: OSError", "rule odd: TypeError"]


def test_what_happened_before_a_round_is_judged_in_it_alone() -> None:
    """Counts from round to round begin anew, and windows move on."""
    asked = judge(*default_rules())
    asked.traffic.observe(exchange(master="acme", limited=True), 0)

    assert [decided(asked, now)[0][0] for now in (1, 61)] == [["fired"], ["resolved"]]


def test_a_preview_changes_nothing() -> None:
    """It shows what a round would find, and the round finds it still."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(key="k1", status=500), 0)

    assert [each.fingerprint for each in asked.preview(Thresholds(), 1)] == ["error_spike:key:k1"]
    assert asked.preview(Thresholds(error_rate=None), 1) == []
    assert asked.board.findings() == []
    assert decided(asked, 1)[0][1] == ["fired"]


@pytest.mark.parametrize(
    ("chosen", "fingerprint"),
    [
        ({"global_qps": 2}, "traffic_spike:global_qps:system:0"),
        ({"master_rpm": 10}, "traffic_spike:master_rpm:master:acme"),
        ({"master_rpd": 10}, "traffic_spike:master_rpd:master:acme"),
        ({"provider_429_rpm": 5}, "rate_limit_exceeded:provider:claude"),
    ],
)
def test_a_preview_shows_what_lower_thresholds_would_find(
    chosen: dict[str, Any], fingerprint: str
) -> None:
    """That is how somebody finds out which ones to set."""
    asked = judge(*default_rules())
    for number in range(20):
        status = 429 if number % 2 else 200
        asked.traffic.observe(exchange(master="acme", provider="claude", status=status), 0)
    assert asked.preview(Thresholds(provider_429_rpm=None), 1) == []

    found = asked.preview(Thresholds(**({"provider_429_rpm": None} | chosen)), 1)

    assert [each.fingerprint for each in found] == [fingerprint]


def test_a_preview_shows_what_an_outage_explains() -> None:
    """As the round would have it."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(key="k1", provider="claude", status=502), 0)

    found = {each.fingerprint: each.severity for each in asked.preview(Thresholds(), 1)}

    assert found == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
        "provider_down:provider:claude": "critical",
    }


def test_a_rule_takes_up_the_alerts_that_go_on_and_no_others() -> None:
    """One that cannot be read is over, and the rule does not hear of it."""

    class Resuming(Planned):
        def resume(self, traffic: Traffic, finding: Finding) -> None:
            self.found.append(finding)

    rule = Resuming()
    unreadable = kept(finding(subject="k2"))
    unreadable.finding.clear()
    news = judge(rule).resume([kept(finding()), unreadable], 10, 10)

    assert rule.found == [finding()]
    assert [each.resolve_reason for each in news.alerts] == ["unreadable"]


def test_other_thresholds_let_go_of_what_was_held() -> None:
    """An alert of before a restart is judged by what is known, as soon as somebody changes them."""
    asked = judge(Planned())
    asked.resume([kept(finding(window=3600))], 10, 10)

    assert decided(asked, 20) == ([[]], True)
    asked.retune(Thresholds(error_window=60))
    assert decided(asked, 30) == ([["resolved"]], True)
