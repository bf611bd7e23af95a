"""The judge: from traffic to alerts, with no clock and nobody to wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Rule, Subject, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.evaluator import Evaluator, RuleSet, check_distinct
from tokenpulse_mw.alerts.lifecycle import Alert
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store import AlertRecord
from tokenpulse_mw.alerts.tracker import Episode, record_of

from .exchanges import exchange
from .findings import FixedRule, finding, never_silenced


def judge(*rules: Rule, reported: list[str] | None = None) -> Evaluator:
    """A judge who goes by these rules, and tells everybody everything."""
    heard = [] if reported is None else reported
    return Evaluator(
        rules,
        thresholds=Thresholds(),
        interval=60,
        cooldown=300,
        max_subjects=5,
        is_silenced=never_silenced,
        report=lambda component, error: heard.append(f"{component}: {type(error).__name__}"),
    )


def decided(judge: Evaluator, now: float, thresholds: Thresholds | None = None) -> tuple[Any, bool]:
    """What happened in a round, by rule, and whether it was a whole one."""
    news, whole = finish(judge.evaluate(thresholds or Thresholds(), now, now + 1e9))
    return [[event.transition for event in each.events] for each in news], whole


def kept(found: Finding, **fields: Any) -> AlertRecord:
    """An alert that has fired at 0."""
    episode = Episode("a1", "planned", Alert(found, "firing", 0, 0), 0, 0, **fields)
    return record_of(episode, now=0, at=0)


def test_a_round_takes_the_alerts_of_every_rule_on() -> None:
    """Each on its own, and the round is a whole one."""
    one, other = FixedRule(finding(), name="one"), FixedRule(name="other")
    asked = judge(one, other)

    assert decided(asked, 0) == ([["fired"], []], True)
    one.findings, other.findings = [], [finding()]
    assert decided(asked, 60) == ([["resolved"], ["fired"]], True)


def test_a_rule_that_fails_makes_no_whole_round() -> None:
    """Whether it raises or finds what cannot be; the others go on, and it is reported."""

    def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        raise OSError

    odd: Any = finding(hold_for="a minute")
    reported: list[str] = []
    asked = judge(broken, FixedRule(odd, name="odd"), FixedRule(finding()), reported=reported)

    assert decided(asked, 0) == ([["fired"]], False)
    assert reported == ["rule broken: OSError", "rule odd: TypeError"]


def test_what_happened_before_a_round_is_judged_in_it_alone() -> None:
    """Counts from round to round begin anew, and windows move on."""
    asked = judge(*default_rules())
    asked.traffic.observe(exchange(tenant="acme", limited=True), 0)

    assert [decided(asked, now)[0][0] for now in (1, 61)] == [["fired"], ["resolved"]]


def test_a_preview_changes_nothing() -> None:
    """It shows what a round would find, and the round finds it still."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(api_key="k1", status=500), 0)

    assert [each.fingerprint for each in finish(asked.dry_run(Thresholds(), 1))] == [
        "error_spike:key:k1"
    ]
    assert finish(asked.dry_run(Thresholds(error_rate=None), 1)) == []
    assert asked.tracker.findings() == []
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
        asked.traffic.observe(exchange(tenant="acme", provider="claude", status=status), 0)
    assert finish(asked.dry_run(Thresholds(provider_429_rpm=None), 1)) == []

    found = finish(asked.dry_run(Thresholds(**({"provider_429_rpm": None} | chosen)), 1))

    assert [each.fingerprint for each in found] == [fingerprint]


def test_a_preview_shows_what_an_outage_explains() -> None:
    """As the round would have it."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(api_key="k1", provider="claude", status=502), 0)

    found = {each.fingerprint: each.severity for each in finish(asked.dry_run(Thresholds(), 1))}

    assert found == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
        "provider_down:provider:claude": "critical",
    }


def test_a_rule_takes_up_the_alerts_that_go_on_and_no_others() -> None:
    """One that cannot be read is over, and the rule does not hear of it."""

    class Resuming(FixedRule):
        def resume(self, traffic: Traffic, finding: Finding) -> None:
            self.findings.append(finding)

    rule = Resuming()
    unreadable = kept(finding(subject="k2"))
    unreadable.finding.clear()
    (news,) = finish(judge(rule).resume([kept(finding()), unreadable], 10, 10))

    assert rule.findings == [finding()]
    assert [each.resolve_reason for each in news.alerts] == ["unreadable"]


def test_other_thresholds_let_go_of_what_was_held() -> None:
    """An alert of before a restart is judged by what is known, as soon as somebody changes them."""
    asked = judge(FixedRule())
    finish(asked.resume([kept(finding(window=3600))], 10, 10))

    assert decided(asked, 20) == ([[]], True)
    finish(asked.set_thresholds(Thresholds(error_window=60)))
    assert decided(asked, 30) == ([["resolved"]], True)


@pytest.mark.parametrize("tried", [1000, 1])
def test_a_preview_forgets_no_spike_that_has_passed(tried: int) -> None:
    """Whether it was with higher or lower thresholds: the round finds what it would have found."""
    asked = judge(*default_rules())
    thresholds = Thresholds(master_rpm=50)
    finish(asked.set_thresholds(thresholds))
    for _ in range(100):
        asked.traffic.observe(exchange(tenant="acme"), 0)
    for _ in range(20):
        asked.traffic.observe(exchange(tenant="other"), 90)

    found = finish(asked.dry_run(thresholds.changed(master_rpm=tried, min_rpm_requests_1m=1), 100))

    assert len(found) == (0 if tried == 1000 else 2)
    news, _ = finish(asked.evaluate(thresholds, 120, 1e9))
    events = [event for each in news for event in each.events]
    assert [(each.fingerprint, each.finding.value) for each in events] == [
        ("traffic_spike:master_rpm:master:acme", 100)
    ]


def test_a_preview_knows_of_the_outages_of_late() -> None:
    """What they explain does not fire in a round, and so not in a dry run."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(api_key="k1", provider="claude", status=502), 0)
    decided(asked, 1)
    asked.traffic.observe(exchange(api_key="k1", provider="claude"), 2)

    found = {each.fingerprint: each.severity for each in finish(asked.dry_run(Thresholds(), 3))}

    assert found == {"error_spike:key:k1": None, "high_error_rate:provider:claude": None}


def test_an_outage_that_only_a_preview_has_found_explains_nothing_later() -> None:
    """The thresholds that it was tried with do not hold."""
    asked = judge(*default_rules())
    for _ in range(5):
        asked.traffic.observe(exchange(api_key="k1", provider="claude", status=502), 0)
    for _ in range(5):
        asked.traffic.observe(exchange(api_key="k1"), 0)

    tried = finish(asked.dry_run(Thresholds(provider_failures=5), 1))
    assert [each.severity for each in tried if each.subject.kind == "key"] == [None]

    assert decided(asked, 2)[0][1] == ["fired"]


def test_a_preview_tries_an_error_window_on_what_the_old_one_has_counted() -> None:
    """An outage explains its failures for as long as those are remembered."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(api_key="k1", provider="claude", status=502), 0)
    decided(asked, 1)
    asked.traffic.observe(exchange(api_key="k1", provider="claude"), 2)

    found = finish(asked.dry_run(Thresholds(error_window=10), 250))

    assert {each.fingerprint: each.severity for each in found} == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
    }


def test_a_rule_whose_numbers_are_odd_breaks_no_preview() -> None:
    """It is found as it is, as in a round, and reported."""
    odd = finding(type="error_spike", metadata={"upstreams": ["a"]})
    reported: list[str] = []

    assert finish(judge(FixedRule(odd), reported=reported).dry_run(Thresholds(), 1)) == [odd]
    assert reported == ["inhibition: AttributeError"]


def test_a_preview_of_a_latency_finds_only_what_was_surely_longer() -> None:
    """Durations are known by the buckets of the threshold that holds: 7.5 to 10 s is one."""
    asked = judge(*default_rules())
    for _ in range(20):
        asked.traffic.observe(exchange(provider="claude", duration=8.0), 0)

    found = {
        tried: [
            each.severity
            for each in finish(asked.dry_run(Thresholds(provider_latency_p95=tried), 1))
        ]
        for tried in (7.5, 7.6, 12.5)
    }

    assert found == {7.5: ["warning"], 7.6: [None], 12.5: []}


THRESHOLDS = Thresholds()


TRAFFIC = Traffic(THRESHOLDS, max_subjects=5)


class Book:
    """A rulebook, and what it has reported."""

    def __init__(self, *rules: Rule, interval: float = 60) -> None:
        self.reported: list[tuple[str, str]] = []
        self.rules = RuleSet(rules, interval=interval, report=self._report)

    def _report(self, component: str, error: Exception) -> None:
        self.reported.append((component, type(error).__name__))

    def find(self) -> dict[str, list[Finding]]:
        """What all rules find."""
        return finish(self.rules.evaluate(TRAFFIC, THRESHOLDS, 0))

    def explained(self, now: float, **found: list[Finding]) -> dict[str, list[Finding]]:
        """Those findings, by the outages of late."""
        explained, down = finish(self.rules.apply_inhibition(found, THRESHOLDS, now))
        self.rules.set_outages(down)
        return explained


def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
    """A rule that raises when it has found something."""
    yield finding()
    raise ZeroDivisionError


def outage() -> Finding:
    """The provider claude is down."""
    return Finding(
        type="provider_down",
        subject=Subject("provider", "claude"),
        severity="critical",
        title="",
        message="",
    )


def spike(**upstreams: int) -> Finding:
    """A key whose 20 failures came from these providers."""
    blamed = {f"provider:{name}": number for name, number in upstreams.items()}
    return finding(type="error_spike", metadata={"errors": 20, "upstreams": blamed})


def test_rules_are_known_by_their_names() -> None:
    """In the order in which they are asked."""
    first, second = FixedRule(name="one"), FixedRule(name="other")
    book = Book(first, broken, second)

    assert book.rules.names == ("one", "broken", "other")
    assert dict(book.rules) == {"one": first, "broken": broken, "other": second}


def test_rules_of_one_name_are_numbered() -> None:
    """Each has alerts of its own, which are found again after a restart."""
    rules = [FixedRule(name="rule") for _ in range(3)]

    assert dict(Book(*rules).rules) == dict(zip(["rule", "rule-2", "rule-3"], rules, strict=True))


@given(names=st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b"]), max_size=8))
def test_no_two_have_the_same_name(names: list[str]) -> None:
    """Also where one is called as another one would be; the first of each keeps its own."""
    made = check_distinct(names)

    assert len(set(made)) == len(made) == len(names)
    assert made[:1] == tuple(names[:1])


def test_every_rule_is_asked_for_what_it_finds() -> None:
    """One after the other, with the same traffic, thresholds and time."""
    asked: list[tuple[Any, ...]] = []

    def rule(*arguments: Any) -> list[Finding]:
        asked.append(arguments)
        return [finding()]

    book = Book(rule, FixedRule())

    assert book.find() == {"rule": [finding()], "planned": []}
    assert asked == [(TRAFFIC, THRESHOLDS, 0)]


def test_a_rule_that_raises_is_left_out_and_reported() -> None:
    """What it had found so far does not count; the others do."""
    book = Book(broken, FixedRule(finding()))

    assert book.find() == {"planned": [finding()]}
    assert book.reported == [("rule broken", "ZeroDivisionError")]


@pytest.mark.parametrize("found", [0, "alert", ("error_spike", "k1")])
def test_a_rule_that_gives_no_findings_is_left_out_and_reported(found: object) -> None:
    """Something else in the list is a failure of that rule, and of no other."""
    odd: Any = [finding(), found]
    book = Book(FixedRule(*odd, name="odd"), FixedRule(finding()))

    assert book.explained(0, **book.find()) == {"planned": [finding()]}
    assert [component for component, _ in book.reported] == ["rule odd"]


@pytest.mark.parametrize("metadata", [{"upstreams": {"provider:claude": 1}}, {"upstreams": 5}])
def test_a_finding_whose_numbers_are_odd_is_explained_by_nothing(metadata: dict[str, Any]) -> None:
    """A rule of somebody's own may be of a type of ours, with other metadata."""
    odd = finding(type="error_spike", metadata=metadata)

    assert Book().explained(0, odd=[odd], down=[outage()])["down"] == [outage()]


class Asking(FixedRule):
    """A rule that has to ask somebody, which may fail."""

    def __init__(self, ask: Callable[[], Any], name: str = "asking") -> None:
        super().__init__(name=name)
        self.ask = ask

    async def refresh(self) -> None:
        await self.ask()

    def resume(self, traffic: Traffic, finding: Finding) -> None:
        self.findings.append(finding)
        if finding.value < 0:
            raise ValueError(finding.value)


@pytest.mark.anyio
async def test_rules_that_want_it_are_refreshed() -> None:
    """One that fails, or takes longer than an interval, is reported; the others are as well."""
    asked: list[str] = []

    async def well() -> None:
        asked.append("well")

    async def badly() -> None:
        raise OSError

    book = Book(
        Asking(badly, "bad"),
        Asking(anyio.sleep_forever, "slow"),
        FixedRule(),
        Asking(well),
        interval=0.01,
    )
    await book.rules.refresh()

    assert asked == ["well"]
    assert book.reported == [
        ("refresh of rule bad", "OSError"),
        ("refresh of rule slow", "TimeoutError"),
    ]


def test_a_rule_that_wants_it_takes_up_what_it_had_found() -> None:
    """One that cannot is reported, and one that does not want to is left alone."""
    asking = Asking(anyio.sleep_forever)
    book = Book(asking, FixedRule())

    for name in ("asking", "planned"):
        for value in (1, -1):
            book.rules.resume(name, TRAFFIC, finding(value=value))

    assert [each.value for each in asking.findings] == [1, -1]
    assert book.reported == [("rule asking", "ValueError")]


def test_what_an_outage_explains_does_not_fire() -> None:
    """Whichever rules have found the one and the other; each keeps what is its own."""
    found = Book().explained(0, errors=[spike(claude=20), spike(gemini=20)], down=[outage()])

    assert [[each.severity for each in found[name]] for name in ("errors", "down")] == [
        [None, "warning"],
        ["critical"],
    ]


def test_an_outage_explains_its_failures_while_they_are_in_the_window() -> None:
    """It is 300 s long, keeps a tenth more, and is looked at once in an interval."""
    book = Book(interval=60)
    book.explained(0, down=[outage()])

    seen = [book.explained(now, errors=[spike(claude=20)])["errors"] for now in (60, 390, 391)]

    assert [found[0].severity for found in seen] == [None, None, "warning"]
