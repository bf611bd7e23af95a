"""The judge: from traffic to alerts, with no clock and nobody to wait for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alerts.exchanges import exchange
from tests.alerts.findings import Planned, finding, never
from tokenpulse_mw.alerts import Finding, Rule, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.episode import Episode, record_of
from tokenpulse_mw.alerts.judge import Judge
from tokenpulse_mw.alerts.lifecycle import Alert
from tokenpulse_mw.alerts.steps import finish
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
        is_silenced=never,
        report=lambda component, error: heard.append(f"{component}: {type(error).__name__}"),
    )


def decided(judge: Judge, now: float, thresholds: Thresholds | None = None) -> tuple[Any, bool]:
    """What happened in a round, by rule, and whether it was a whole one."""
    news, whole = finish(judge.decide(thresholds or Thresholds(), now, now + 1e9))
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

    assert [each.fingerprint for each in finish(asked.preview(Thresholds(), 1))] == [
        "error_spike:key:k1"
    ]
    assert finish(asked.preview(Thresholds(error_rate=None), 1)) == []
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
    assert finish(asked.preview(Thresholds(provider_429_rpm=None), 1)) == []

    found = finish(asked.preview(Thresholds(**({"provider_429_rpm": None} | chosen)), 1))

    assert [each.fingerprint for each in found] == [fingerprint]


def test_a_preview_shows_what_an_outage_explains() -> None:
    """As the round would have it."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(key="k1", provider="claude", status=502), 0)

    found = {each.fingerprint: each.severity for each in finish(asked.preview(Thresholds(), 1))}

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
    (news,) = finish(judge(rule).resume([kept(finding()), unreadable], 10, 10))

    assert rule.found == [finding()]
    assert [each.resolve_reason for each in news.alerts] == ["unreadable"]


def test_other_thresholds_let_go_of_what_was_held() -> None:
    """An alert of before a restart is judged by what is known, as soon as somebody changes them."""
    asked = judge(Planned())
    finish(asked.resume([kept(finding(window=3600))], 10, 10))

    assert decided(asked, 20) == ([[]], True)
    finish(asked.retune(Thresholds(error_window=60)))
    assert decided(asked, 30) == ([["resolved"]], True)


@pytest.mark.parametrize("tried", [1000, 1])
def test_a_preview_forgets_no_spike_that_has_passed(tried: int) -> None:
    """Whether it was with higher or lower thresholds: the round finds what it would have found."""
    asked = judge(*default_rules())
    thresholds = Thresholds(master_rpm=50)
    finish(asked.retune(thresholds))
    for _ in range(100):
        asked.traffic.observe(exchange(master="acme"), 0)
    for _ in range(20):
        asked.traffic.observe(exchange(master="other"), 90)

    found = finish(asked.preview(thresholds.changed(master_rpm=tried, min_rpm_requests_1m=1), 100))

    assert len(found) == (0 if tried == 1000 else 2)
    news, _ = finish(asked.decide(thresholds, 120, 1e9))
    events = [event for each in news for event in each.events]
    assert [(each.fingerprint, each.finding.value) for each in events] == [
        ("traffic_spike:master_rpm:master:acme", 100)
    ]


def test_a_preview_knows_of_the_outages_of_late() -> None:
    """What they explain does not fire in a round, and so not in a dry run."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(key="k1", provider="claude", status=502), 0)
    decided(asked, 1)
    asked.traffic.observe(exchange(key="k1", provider="claude"), 2)

    found = {each.fingerprint: each.severity for each in finish(asked.preview(Thresholds(), 3))}

    assert found == {"error_spike:key:k1": None, "high_error_rate:provider:claude": None}


def test_an_outage_that_only_a_preview_has_found_explains_nothing_later() -> None:
    """The thresholds that it was tried with do not hold."""
    asked = judge(*default_rules())
    for _ in range(5):
        asked.traffic.observe(exchange(key="k1", provider="claude", status=502), 0)
    for _ in range(5):
        asked.traffic.observe(exchange(key="k1"), 0)

    tried = finish(asked.preview(Thresholds(provider_failures=5), 1))
    assert [each.severity for each in tried if each.subject.kind == "key"] == [None]

    assert decided(asked, 2)[0][1] == ["fired"]


def test_a_preview_tries_an_error_window_on_what_the_old_one_has_counted() -> None:
    """An outage explains its failures for as long as those are remembered."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(key="k1", provider="claude", status=502), 0)
    decided(asked, 1)
    asked.traffic.observe(exchange(key="k1", provider="claude"), 2)

    found = finish(asked.preview(Thresholds(error_window=10), 250))

    assert {each.fingerprint: each.severity for each in found} == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
    }


def test_a_rule_whose_numbers_are_odd_breaks_no_preview() -> None:
    """It is found as it is, as in a round, and reported."""
    odd = finding(type="error_spike", metadata={"upstreams": ["a"]})
    reported: list[str] = []

    assert finish(judge(Planned(odd), reported=reported).preview(Thresholds(), 1)) == [odd]
    assert reported == ["inhibition: AttributeError"]


def test_a_preview_of_a_latency_finds_only_what_was_surely_longer() -> None:
    """Durations are known by the buckets of the threshold that holds: 7.5 to 10 s is one."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(provider="claude", duration=8.0), 0)

    found = {
        tried: [
            each.severity
            for each in finish(asked.preview(Thresholds(provider_latency_p95=tried), 1))
        ]
        for tried in (7.5, 7.6, 12.5)
    }

    assert found == {7.5: ["warning"], 7.6: [None], 12.5: []}
