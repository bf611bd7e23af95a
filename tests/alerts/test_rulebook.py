"""The rulebook: every rule is asked, and none that fails costs the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.findings import Planned, finding
from tokenpulse_mw.alerts import Finding, Rule, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.rulebook import Rulebook, distinct
from tokenpulse_mw.alerts.steps import finish

THRESHOLDS = Thresholds()
TRAFFIC = Traffic(THRESHOLDS, max_subjects=5)


class Book:
    """A rulebook, and what it has reported."""

    def __init__(self, *rules: Rule, interval: float = 60) -> None:
        self.reported: list[tuple[str, str]] = []
        self.rules = Rulebook(rules, interval=interval, report=self._report)

    def _report(self, component: str, error: Exception) -> None:
        self.reported.append((component, type(error).__name__))

    def find(self) -> dict[str, list[Finding]]:
        """What all rules find."""
        return finish(self.rules.find(TRAFFIC, THRESHOLDS, 0))

    def explained(self, now: float, **found: list[Finding]) -> dict[str, list[Finding]]:
        """Those findings, by the outages of late."""
        explained, down = finish(self.rules.explained(found, THRESHOLDS, now))
        self.rules.remember(down)
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
    first, second = Planned(name="one"), Planned(name="other")
    book = Book(first, broken, second)

    assert book.rules.names == ("one", "broken", "other")
    assert dict(book.rules) == {"one": first, "broken": broken, "other": second}


def test_rules_of_one_name_are_numbered() -> None:
    """Each has alerts of its own, which are found again after a restart."""
    rules = [Planned(name="rule") for _ in range(3)]

    assert dict(Book(*rules).rules) == dict(zip(["rule", "rule-2", "rule-3"], rules, strict=True))


@given(names=st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b"]), max_size=8))
def test_no_two_have_the_same_name(names: list[str]) -> None:
    """Also where one is called as another one would be; the first of each keeps its own."""
    made = distinct(names)

    assert len(set(made)) == len(made) == len(names)
    assert made[:1] == tuple(names[:1])


def test_every_rule_is_asked_for_what_it_finds() -> None:
    """One after the other, with the same traffic, thresholds and time."""
    asked: list[tuple[Any, ...]] = []

    def rule(*arguments: Any) -> list[Finding]:
        asked.append(arguments)
        return [finding()]

    book = Book(rule, Planned())

    assert book.find() == {"rule": [finding()], "planned": []}
    assert asked == [(TRAFFIC, THRESHOLDS, 0)]


def test_a_rule_that_raises_is_left_out_and_reported() -> None:
    """What it had found so far does not count; the others do."""
    book = Book(broken, Planned(finding()))

    assert book.find() == {"planned": [finding()]}
    assert book.reported == [("rule broken", "ZeroDivisionError")]


@pytest.mark.parametrize("found", [0, "alert", ("error_spike", "k1")])
def test_a_rule_that_gives_no_findings_is_left_out_and_reported(found: object) -> None:
    """Something else in the list is a failure of that rule, and of no other."""
    odd: Any = [finding(), found]
    book = Book(Planned(*odd, name="odd"), Planned(finding()))

    assert book.explained(0, **book.find()) == {"planned": [finding()]}
    assert [component for component, _ in book.reported] == ["rule odd"]


@pytest.mark.parametrize("metadata", [{"upstreams": {"provider:claude": 1}}, {"upstreams": 5}])
def test_a_finding_whose_numbers_are_odd_is_explained_by_nothing(metadata: dict[str, Any]) -> None:
    """A rule of somebody's own may be of a type of ours, with other metadata."""
    odd = finding(type="error_spike", metadata=metadata)

    assert Book().explained(0, odd=[odd], down=[outage()])["down"] == [outage()]


class Asking(Planned):
    """A rule that has to ask somebody, which may fail."""

    def __init__(self, ask: Callable[[], Any], name: str = "asking") -> None:
        super().__init__(name=name)
        self.ask = ask

    async def refresh(self) -> None:
        await self.ask()

    def resume(self, traffic: Traffic, finding: Finding) -> None:
        self.found.append(finding)
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
        Planned(),
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
    book = Book(asking, Planned())

    for name in ("asking", "planned"):
        for value in (1, -1):
            book.rules.resume(name, TRAFFIC, finding(value=value))

    assert [each.value for each in asking.found] == [1, -1]
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
