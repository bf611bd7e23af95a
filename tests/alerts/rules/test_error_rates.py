"""The `error_spike` and `high_error_rate` rules."""

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


def test_error_spike_finding_has_its_numbers() -> None:
    """The finding has the counts, the window and the threshold."""
    (finding,) = error_spikes(20, 40, error_window=60)

    assert finding == Finding(
        type="error_spike",
        subject=Subject("key", "k1"),
        severity="critical",
        title="High error rate detected (50.0%)",
        message="Key ID k1 has 50.0% error rate (20/40 requests) in the last 1m0s",
        value=0.5,
        metadata={"requests": 40, "errors": 20, "threshold": 0.1},
        keep_firing=300,
        keeps="critical",
    )
    assert finding.fingerprint == "error_spike:key:k1"


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
def test_severity_follows_the_error_rate(failures: int, severity: Severity) -> None:
    """The severity is info from 10 %, warning from 25 % and critical from 50 %."""
    (finding,) = error_spikes(failures, 1000, error_evidence=False)

    assert finding.severity == severity


@pytest.mark.parametrize(
    ("failures", "keeps"),
    [(199, "info"), (200, "warning"), (399, "warning"), (400, "critical"), (1000, "critical")],
)
def test_alert_keeps_its_severity_down_to_80_percent_of_the_step(
    failures: int, keeps: Severity
) -> None:
    """An error rate that swings around a step does not change the severity each time."""
    (finding,) = error_spikes(failures, 1000)

    assert finding.keeps == keeps


@pytest.mark.parametrize(
    ("failures", "requests", "with_evidence", "without"),
    [
        (3, 10, "warning", "warning"),
        (10, 10, "critical", "critical"),
        (10, 100, None, "info"),
        (14, 100, None, "info"),
        (15, 100, "info", "info"),
    ],
)
def test_error_rate_without_evidence_does_not_fire(
    failures: int, requests: int, with_evidence: Severity | None, without: Severity
) -> None:
    """An error rate that may be chance fires only without `error_evidence`, as in the seed."""
    for error_evidence, severity in ((True, with_evidence), (False, without)):
        (finding,) = error_spikes(failures, requests, error_evidence=error_evidence)
        assert finding.severity == severity


@pytest.mark.parametrize(("requests", "severity"), [(9, None), (10, "critical")])
def test_too_few_requests_do_not_fire(requests: int, severity: Severity | None) -> None:
    """Below `error_min_requests` not even an error rate of 100 % fires."""
    (finding,) = error_spikes(requests, requests)

    assert finding.severity == severity


def test_error_rate_of_each_key_is_separate() -> None:
    """Successes of other keys do not lower the error rate of a key."""
    scenario = Scenario()
    scenario.observe(10, api_key="bad", status=500)
    scenario.observe(10, api_key="good")

    (finding,) = scenario.evaluate(error_spike)

    assert (finding.subject.id, finding.value) == ("bad", 1.0)


@pytest.mark.parametrize(
    "exchanges",
    [
        pytest.param(
            [
                (100, {"status": 404}),
                (100, {"status": 429, "limited": True}),
                (100, {"status": 499, "outcome": "client_disconnect"}),
            ],
            id="defect 6: client errors, limited requests, disconnects",
        ),
        pytest.param(
            [(9, {}), (1, {"status": 500})],
            id="defect 7: one failure in ten, which is likely at a true error rate of 5 %",
        ),
    ],
)
def test_normal_traffic_is_not_an_error_spike(exchanges: list[tuple[int, dict[str, Any]]]) -> None:
    """Neither errors of clients nor a single failure are a finding."""
    scenario = Scenario()
    for times, fields in exchanges:
        scenario.observe(times, api_key="k1", **fields)

    assert scenario.evaluate(error_spike) == []


class Requests(NamedTuple):
    """Requests of a key, `later` seconds after the previous ones."""

    later: int
    key: str
    requests: int
    failures: int


@given(
    log=st.lists(
        st.builds(
            Requests,
            later=st.sampled_from([0, 10, 100, 250]),
            key=st.sampled_from(["k1", "k2"]),
            requests=st.integers(0, 30),
            failures=st.integers(0, 4),
        ),
        max_size=30,
    ),
    evidence=st.booleans(),
)
def test_rule_finds_the_same_as_a_scan_of_all_keys(log: list[Requests], evidence: bool) -> None:
    """Skipping keys with few failures changes neither the start nor the end of an alert."""
    scenario = Scenario(error_evidence=evidence)
    now, firing, expected = 0, set[str](), set[str]()
    for entry in log:
        now += entry.later
        scenario.observe(entry.requests, now=now, api_key=entry.key)
        scenario.observe(entry.failures, now=now, api_key=entry.key, status=500)
        scenario.traffic.advance(now)
        shares = {
            f"error_spike:key:{key}": confident_share(failures, requests, scenario.thresholds)
            for key, requests, failures in scenario.traffic.errors.failing()
            if failures / requests >= 0.1 * 0.8
        }
        expected = {name for name, share in shares.items() if share >= 0.1 or name in expected}

        result = severities(scenario.evaluate(error_spike, now))
        firing = {name for name in result if result[name] is not None or name in firing}
        assert firing == expected


def test_keys_with_too_few_failures_are_not_candidates() -> None:
    """An evaluation does not read keys that cannot fire, however many there are."""
    scenario = Scenario(max_subjects=3000)
    for number in range(3000):
        scenario.observe(20, api_key=f"k{number}", provider="claude")
        scenario.observe(api_key=f"k{number}", provider="claude", status=500)

    assert scenario.evaluate(error_spike) == []
    assert list(scenario.traffic.errors.candidates()) == []
    assert len(list(scenario.traffic.errors.failing())) == 3000


@pytest.mark.parametrize("others", [0, 50])
def test_upstreams_of_each_key_are_found_among_few_and_many_keys(others: int) -> None:
    """Looking up each key and grouping all failures give the same upstreams."""
    scenario = Scenario(max_subjects=100)
    for number in range(others):
        scenario.observe(api_key=f"k{number}", provider="claude", status=500)
    for name in ("bad", "worse"):
        for credential, failures in {"c1": 10, "c2": 20}.items():
            scenario.observe(failures, api_key=name, credential=credential, status=500)

    findings = scenario.evaluate(error_spike)

    assert {finding.subject.id: finding.metadata["upstreams"] for finding in findings} == {
        name: {"apikey:c2": 20, "apikey:c1": 10} for name in ("bad", "worse")
    }


def test_key_and_provider_with_the_same_name_have_separate_upstreams() -> None:
    """The failures of key "claude" do not count for provider "claude"."""
    scenario = Scenario()
    scenario.observe(20, api_key="claude", provider="gemini", status=500)
    scenario.observe(10, api_key="k2", provider="claude", status=500)

    spike, _ = scenario.evaluate(error_spike)
    rates = scenario.evaluate(high_error_rate)

    assert (spike.subject.id, spike.metadata["upstreams"]) == ("claude", {"provider:gemini": 20})
    assert {finding.subject.id: finding.metadata["upstreams"] for finding in rates} == {
        "gemini": {"provider:gemini": 20},
        "claude": {"provider:claude": 10},
    }


def test_defect_16_control_characters_in_an_id_are_escaped() -> None:
    """An id chosen by a client cannot forge a log line."""
    scenario = Scenario()
    scenario.observe(10, api_key="k1\n[2026] [ERROR] all is lost", status=500)

    (finding,) = scenario.evaluate(error_spike)

    assert "\n" not in finding.title + finding.message


def test_key_has_the_name_of_its_tenant() -> None:
    """Id and name of the tenant stand beside the key."""
    scenario = Scenario()
    scenario.observe(10, api_key="k1", tenant="7", tenant_name="Acme", status=500)

    (finding,) = scenario.evaluate(error_spike)

    assert finding.fingerprint == "error_spike:key:k1"
    assert finding.subject == Subject("key", "k1", "Acme")
    assert finding.message.startswith("Key ID k1 (Master 'Acme', ID: 7) has 100.0% error rate (10/")
    assert (finding.metadata["master"], finding.metadata["master_name"]) == ("7", "Acme")


def test_key_with_the_id_of_another_tenant_has_not_its_name() -> None:
    """Ids of keys and of tenants may be equal without having to do with each other."""
    scenario = Scenario()
    scenario.observe(tenant="7", tenant_name="Acme")
    scenario.observe(10, api_key="7", status=500)

    (finding,) = scenario.evaluate(error_spike)

    assert finding.subject == Subject("key", "7")
    assert finding.message.startswith("Key ID 7 has ")


def test_other_keys_together_have_no_tenant() -> None:
    """Keys beyond `max_subjects` belong to several tenants."""
    scenario = Scenario(max_subjects=1)
    for number in range(9):
        scenario.observe(10, api_key=f"k{number}", tenant="7", tenant_name="Acme", status=500)
    scenario.observe(api_key="__overflow__", tenant="7", tenant_name="Acme")

    findings = scenario.evaluate(error_spike)

    messages = [finding.message for finding in findings if finding.subject.name == "all others"]
    assert messages[0].startswith("Key 'all others' (ID: __overflow__) has ")


def test_upstreams_have_their_groups() -> None:
    """The group stands beside the id of a credential; a credential without a group has none."""
    scenario = Scenario()
    for number, group in enumerate(["claude-prod", None]):
        scenario.observe(
            10,
            api_key="k1",
            credential=f"c{number}",
            credential_group=group,
            provider="claude",
            status=500,
        )

    for rule in (error_spike, high_error_rate):
        (finding,) = scenario.evaluate(rule)
        assert finding.metadata["upstreams"] == {"apikey:c0": 10, "apikey:c1": 10}
        assert finding.metadata["upstream_groups"] == {"apikey:c0": "claude-prod"}


def test_finding_names_the_five_upstreams_with_most_failures() -> None:
    """Further upstreams are omitted."""
    scenario = Scenario(max_subjects=20)
    for number in range(1, 8):
        scenario.observe(
            number, api_key="k1", provider="claude", credential=f"c{number}", status=500
        )

    (finding,) = scenario.evaluate(error_spike)

    assert finding.metadata["upstreams"] == {f"apikey:c{number}": number for number in range(3, 8)}


def test_upstreams_with_equally_many_failures_are_named_in_order() -> None:
    """Every leader names the same upstreams, in any order of counting."""
    scenario = Scenario(max_subjects=20)
    for number in (3, 7, 1, 6, 2, 5, 4):
        scenario.observe(2, api_key="k1", credential=f"c{number}", status=500)

    (finding,) = scenario.evaluate(error_spike)

    assert list(finding.metadata["upstreams"]) == [f"apikey:c{number}" for number in range(1, 6)]


def test_high_error_rate_finding_has_its_numbers() -> None:
    """The finding is critical and must last for five minutes."""
    scenario = Scenario()
    scenario.observe(60, provider="claude", duration=9.0)
    scenario.observe(40, provider="claude", status=502)

    assert scenario.evaluate(high_error_rate) == [
        Finding(
            type="high_error_rate",
            subject=Subject("provider", "claude", "claude"),
            severity="critical",
            title="Provider 'claude' has a high error rate (40.0%)",
            message="Provider 'claude' failed 40 of 100 requests (40.0%) in the last 5m0s",
            value=0.4,
            metadata={
                "requests": 100,
                "errors": 40,
                "threshold": 0.05,
                "upstreams": {"provider:claude": 40},
            },
            hold_for=300,
            keep_firing=300,
            window=300,
        )
    ]


def test_client_errors_never_count_for_a_provider() -> None:
    """`count_client_errors` applies to keys only."""
    scenario = Scenario(count_client_errors=True)
    scenario.observe(100, api_key="k1", provider="claude", status=400)

    assert severities(scenario.evaluate(error_spike)) == {"error_spike:key:k1": "critical"}
    assert scenario.evaluate(high_error_rate) == []


def test_failures_without_provider_are_found_by_error_spike_alone() -> None:
    """Failures of the gateway itself have one alert, not two."""
    scenario = Scenario()
    scenario.observe(100, status=500)

    assert scenario.evaluate(high_error_rate) == []
    assert severities(scenario.evaluate(error_spike)) == {"error_spike:system:0": "critical"}
