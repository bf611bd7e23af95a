"""Shares of requests that failed: of a key's, and of a provider's."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import error_spike, high_error_rate
from tokenpulse_mw.alerts.traffic.statistics import confident_share

from .scenario import Scenario, severities


def error_spikes(failures: int, requests: int, **thresholds: Any) -> list[Finding]:
    """Return the findings of `error_spike` after `failures` of `requests` of key k1 failed."""
    scenario = Scenario(**thresholds)
    scenario.observe(failures, api_key="k1", status=500)
    scenario.observe(requests - failures, api_key="k1")
    return scenario.evaluate(error_spike)


def test_a_key_that_fails_too_often_is_found_with_its_numbers() -> None:
    """The finding says what was counted, over how long, and what it was compared with."""
    (found,) = error_spikes(20, 40, error_window=60)

    assert found == Finding(
        type="error_spike",
        subject=Subject("key", "k1"),
        severity="critical",
        title="High error rate detected (50.0%)",
        message="Key 'k1' has 50.0% error rate (20/40 requests) in the last 60 s",
        value=0.5,
        metadata={"requests": 40, "errors": 20, "threshold": 0.1},
        keeps="critical",
    )
    assert found.fingerprint == "error_spike:key:k1"


@pytest.mark.parametrize(
    ("failures", "severity"),
    [
        (100, "info"),
        (249, "info"),
        (250, "warning"),
        (499, "warning"),
        (500, "critical"),
        (1000, "critical"),
    ],
)
def test_the_severity_follows_the_share_of_failures(failures: int, severity: Severity) -> None:
    """From 10 % it is info, from 25 % warning, from 50 % critical."""
    (found,) = error_spikes(failures, 1000, error_evidence=False)

    assert found.severity == severity


@pytest.mark.parametrize(
    ("failures", "keeps"),
    [(199, "info"), (200, "warning"), (399, "warning"), (400, "critical"), (1000, "critical")],
)
def test_an_alert_keeps_its_severity_down_to_80_percent_of_the_step(
    failures: int, keeps: Severity
) -> None:
    """Or it would change with each request that fails around one."""
    (found,) = error_spikes(failures, 1000)

    assert found.keeps == keeps


@pytest.mark.parametrize(
    ("failures", "requests", "surely", "merely"),
    [
        (3, 10, "warning", "warning"),
        (10, 10, "critical", "critical"),
        (10, 100, None, "info"),
        (14, 100, None, "info"),
        (15, 100, "info", "info"),
    ],
)
def test_a_share_needs_evidence_unless_that_is_switched_off(
    failures: int, requests: int, surely: Severity | None, merely: Severity
) -> None:
    """A few requests with bad luck do not fire; without `error_evidence` they do, as the seed."""
    (with_evidence,) = error_spikes(failures, requests)
    (without,) = error_spikes(failures, requests, error_evidence=False)

    assert (with_evidence.severity, without.severity) == (surely, merely)


@pytest.mark.parametrize(("requests", "severity"), [(9, None), (10, "critical")])
def test_too_few_requests_never_fire(requests: int, severity: Severity | None) -> None:
    """Below `error_min_requests` even a share of 100 % means nothing."""
    (found,) = error_spikes(requests, requests)

    assert found.severity == severity


def test_each_key_is_judged_by_its_own_share() -> None:
    """One tenant's trouble is not hidden among the successes of the others."""
    scenario = Scenario()
    scenario.observe(10, api_key="bad", status=500)
    scenario.observe(10, api_key="good")

    (found,) = scenario.evaluate(error_spike)

    assert (found.subject.id, found.value) == ("bad", 1.0)


def test_defect_6_a_clients_errors_and_our_own_429s_are_no_error_spike() -> None:
    """One client that is wrong, or our own limit, wakes nobody."""
    scenario = Scenario()
    scenario.observe(100, api_key="k1", status=404)
    scenario.observe(100, api_key="k1", status=429, limited=True)
    scenario.observe(100, api_key="k1", status=499, outcome="client_disconnect")

    assert scenario.evaluate(error_spike) == []


def test_defect_7_one_failure_in_ten_is_no_error_spike() -> None:
    """With true errors of 5 % that happens in four rounds of ten."""
    scenario = Scenario()
    scenario.observe(9, api_key="k1")
    scenario.observe(api_key="k1", status=500)

    assert scenario.evaluate(error_spike) == []


class Seen(NamedTuple):
    """Requests of a key: how many seconds after those before, and how many of them failed."""

    later: int
    key: str
    requests: int
    failures: int


@given(
    log=st.lists(
        st.builds(
            Seen,
            later=st.sampled_from([0, 10, 100, 250]),
            key=st.sampled_from(["k1", "k2"]),
            requests=st.integers(0, 30),
            failures=st.integers(0, 4),
        ),
        max_size=30,
    ),
    evidence=st.booleans(),
)
def test_alerts_begin_and_end_as_if_every_key_were_looked_at(
    log: list[Seen], evidence: bool
) -> None:
    """Whoever fails too seldom for an alert, and has none, is passed over."""
    scenario = Scenario(error_evidence=evidence)
    now, firing, expected = 0, set[str](), set[str]()
    for seen in log:
        now += seen.later
        scenario.observe(seen.requests, now=now, api_key=seen.key)
        scenario.observe(seen.failures, now=now, api_key=seen.key, status=500)
        scenario.traffic.roll(now)
        shares = {
            f"error_spike:key:{key}": (
                confident_share(failures, requests, scenario.thresholds),
                share,
            )
            for key, requests, failures in scenario.traffic.errors.failing()
            if (share := failures / requests) >= 0.1 * 0.8
        }
        expected = {
            name for name, (surely, _) in shares.items() if surely >= 0.1 or name in expected
        }

        found = severities(scenario.evaluate(error_spike, now))
        firing = {name for name in found if found[name] is not None or name in firing}
        assert firing == expected


def test_one_failure_of_each_of_many_keys_costs_a_round_nothing() -> None:
    """Nobody is looked at who cannot fire, so there is nothing to walk through."""
    scenario = Scenario(max_subjects=3000)
    for number in range(3000):
        scenario.observe(20, api_key=f"k{number}", provider="claude")
        scenario.observe(api_key=f"k{number}", provider="claude", status=500)

    assert scenario.evaluate(error_spike) == []
    assert list(scenario.traffic.errors.candidates()) == []
    assert len(list(scenario.traffic.errors.failing())) == 3000


@pytest.mark.parametrize("others", [0, 50])
def test_upstreams_are_named_however_many_keys_have_failed(others: int) -> None:
    """Among few keys or many, what has failed for each is found."""
    scenario = Scenario(max_subjects=100)
    for number in range(others):
        scenario.observe(api_key=f"k{number}", provider="claude", status=500)
    for name in ("bad", "worse"):
        for credential, failures in {"c1": 10, "c2": 20}.items():
            scenario.observe(failures, api_key=name, credential=credential, status=500)

    found = scenario.evaluate(error_spike)

    assert {each.subject.id: each.metadata["upstreams"] for each in found} == {
        name: {"apikey:c2": 20, "apikey:c1": 10} for name in ("bad", "worse")
    }


def test_a_key_and_a_provider_of_one_name_are_blamed_each_for_its_own() -> None:
    """What a key's failures came from is no one else's."""
    scenario = Scenario()
    scenario.observe(20, api_key="claude", provider="gemini", status=500)
    scenario.observe(10, api_key="k2", provider="claude", status=500)

    (spike, _), (first, second) = scenario.evaluate(error_spike), scenario.evaluate(high_error_rate)

    assert (spike.subject.id, spike.metadata["upstreams"]) == ("claude", {"provider:gemini": 20})
    blamed = {each.subject.id: each.metadata["upstreams"] for each in (first, second)}
    assert blamed == {"gemini": {"provider:gemini": 20}, "claude": {"provider:claude": 10}}


def test_defect_16_what_a_client_calls_itself_cannot_forge_a_line() -> None:
    """An id is quoted, and its control characters with it."""
    scenario = Scenario()
    scenario.observe(10, api_key="k1\n[2026] [ERROR] all is lost", status=500)

    (found,) = scenario.evaluate(error_spike)

    assert "\n" not in found.title + found.message


def test_where_failures_came_from_is_told() -> None:
    """At most five upstreams are named, those with the most failures."""
    scenario = Scenario(max_subjects=20)
    for number in range(1, 8):
        scenario.observe(
            number, api_key="k1", provider="claude", credential=f"c{number}", status=500
        )

    (found,) = scenario.evaluate(error_spike)

    assert found.metadata["upstreams"] == {f"apikey:c{number}": number for number in range(3, 8)}


def test_a_provider_that_fails_too_often_is_found_with_its_numbers() -> None:
    """It is critical once it has lasted for five minutes."""
    scenario = Scenario()
    scenario.observe(60, provider="claude", duration=9.0)
    scenario.observe(40, provider="claude", status=502)

    assert scenario.evaluate(high_error_rate) == [
        Finding(
            type="high_error_rate",
            subject=Subject("provider", "claude", "claude"),
            severity="critical",
            title="Provider 'claude' has a high error rate (40.0%)",
            message="Provider 'claude' failed 40 of 100 requests (40.0%) in the last 300 s",
            value=0.4,
            metadata={
                "requests": 100,
                "errors": 40,
                "threshold": 0.05,
                "upstreams": {"provider:claude": 40},
            },
            hold_for=300,
            window=300,
        )
    ]


def test_a_provider_is_not_to_blame_for_what_clients_do_wrong() -> None:
    """Not even where a key's errors count them."""
    scenario = Scenario(count_client_errors=True)
    scenario.observe(100, api_key="k1", provider="claude", status=400)

    assert severities(scenario.evaluate(error_spike)) == {"error_spike:key:k1": "critical"}
    assert scenario.evaluate(high_error_rate) == []


def test_failures_of_nobody_known_are_left_to_the_error_spike() -> None:
    """One thing has one alert."""
    scenario = Scenario()
    scenario.observe(100, status=500)

    assert scenario.evaluate(high_error_rate) == []
    assert severities(scenario.evaluate(error_spike)) == {"error_spike:system:0": "critical"}
