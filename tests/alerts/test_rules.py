"""The default rules: what they find, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.exchanges import exchange
from tokenpulse_mw.alerts import Finding, Severity, Subject, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.rules import error_spike, provider_down, rate_limit, wilson_lower_bound


def errors_of(failures: int, requests: int, thresholds: Thresholds) -> list[Finding]:
    """What `error_spike` finds where key k1 has failed `failures` of `requests` times."""
    traffic = Traffic(thresholds, max_subjects=5)
    for number in range(requests):
        traffic.observe(exchange(key="k1", status=500 if number < failures else 200), now=0)
    return list(error_spike(traffic, thresholds, 0))


def outcomes_of(outcomes: str, thresholds: Thresholds) -> list[Finding]:
    """What `provider_down` finds after `outcomes` of claude: `x` is a failure, `.` a success."""
    traffic = Traffic(thresholds, max_subjects=5)
    for outcome in outcomes:
        traffic.observe(exchange(provider="claude", status=502 if outcome == "x" else 200), now=0)
    return list(provider_down(traffic, thresholds, 0))


def test_an_engine_that_is_given_no_rules_has_these() -> None:
    """There are three rules, in this order."""
    assert default_rules() == [rate_limit, error_spike, provider_down]


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


def test_a_key_that_fails_too_often_is_found_with_its_numbers() -> None:
    """The finding says what was counted, over how long, and what it was compared with."""
    (found,) = errors_of(20, 40, Thresholds(error_window=60))

    assert found == Finding(
        type="error_spike",
        subject=Subject("key", "k1"),
        severity="critical",
        title="High error rate detected (50.0%)",
        message="Key 'k1' has 50.0% error rate (20/40 requests) in the last 60 s",
        value=0.5,
        metadata={"requests": 40, "errors": 20, "threshold": 0.1},
    )
    assert found.fingerprint == "error_spike:key:k1"


def test_without_keys_it_is_the_gateway_that_fails() -> None:
    """A gateway that tells no keys apart is judged as a whole."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for _ in range(10):
        traffic.observe(exchange(status=500), now=0)

    (found,) = error_spike(traffic, Thresholds(), 0)

    assert found.fingerprint == "error_spike:system:0"
    assert found.message == "The gateway has 100.0% error rate (10/10 requests) in the last 300 s"


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
    (found,) = errors_of(failures, 1000, Thresholds(error_evidence=False))

    assert found.severity == severity


@pytest.mark.parametrize(
    ("failures", "requests", "surely", "merely"),
    [
        (1, 10, None, "info"),
        (2, 10, None, "info"),
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
    (with_evidence,) = errors_of(failures, requests, Thresholds())
    (without,) = errors_of(failures, requests, Thresholds(error_evidence=False))

    assert (with_evidence.severity, without.severity) == (surely, merely)


@pytest.mark.parametrize(("requests", "severity"), [(9, None), (10, "critical")])
def test_too_few_requests_never_fire(requests: int, severity: Severity | None) -> None:
    """Below `error_min_requests` even a share of 100 % means nothing."""
    (found,) = errors_of(requests, requests, Thresholds())

    assert found.severity == severity


@pytest.mark.parametrize(
    ("failures", "severities"),
    [(50, ["critical"]), (49, [None]), (25, [None]), (24, []), (0, [])],
)
def test_between_the_two_thresholds_a_share_neither_fires_nor_resolves(
    failures: int, severities: list[Severity | None]
) -> None:
    """From `resolve_ratio` of the threshold up to it the finding has no severity."""
    thresholds = Thresholds(error_rate=0.5, resolve_ratio=0.5, error_evidence=False)

    found = errors_of(failures, 100, thresholds)

    assert [each.severity for each in found] == severities


def test_each_key_is_judged_by_its_own_share() -> None:
    """One tenant's trouble is not hidden among the successes of the others."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for _ in range(10):
        traffic.observe(exchange(key="bad", status=500), now=0)
        traffic.observe(exchange(key="good"), now=0)

    (found,) = error_spike(traffic, Thresholds(), 0)

    assert (found.subject.id, found.value) == ("bad", 1.0)


def test_a_threshold_of_none_switches_a_rule_off() -> None:
    """What would fire is not even found."""
    thresholds = Thresholds(error_rate=None, provider_failures=None)

    assert errors_of(100, 100, thresholds) == []
    assert outcomes_of("x" * 100, thresholds) == []


@pytest.mark.parametrize(
    ("outcomes", "severities"),
    [
        ("", []),
        ("." * 20, []),
        ("x" * 9, [None]),
        ("x" * 10, ["critical"]),
        ("." * 50 + "x" * 9, [None]),
        ("." * 50 + "x" * 10, ["critical"]),
        ("x" * 9 + "." + "x" * 9, [None]),
        ("x" * 9 + "." + "x" * 10, ["critical"]),
        ("x" * 50 + ".", []),
    ],
)
def test_a_provider_is_down_after_ten_failures_with_no_success_between(
    outcomes: str, severities: list[Severity | None]
) -> None:
    """One success begins the count anew, and ends the finding."""
    found = outcomes_of(outcomes, Thresholds())

    assert [each.severity for each in found] == severities


@pytest.mark.parametrize(
    ("outcomes", "severity"),
    [("...xxx", "critical"), ("....xxx", None), ("x" * 6 + "." * 10 + "xxxx", "critical")],
)
def test_at_least_half_of_the_last_twenty_must_have_failed_too(
    outcomes: str, severity: Severity | None
) -> None:
    """With a low threshold a short bad patch of a provider that mostly works is no outage."""
    (found,) = outcomes_of(outcomes, Thresholds(provider_failures=3))

    assert found.severity == severity


def test_a_provider_without_traffic_stays_down() -> None:
    """That nobody asks it any longer is no sign of health; only a success is."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for _ in range(10):
        traffic.observe(exchange(provider="claude", status=502), now=0)

    traffic.errors.expire(1e6)
    assert [each.severity for each in provider_down(traffic, Thresholds(), 1e6)] == ["critical"]
    traffic.observe(exchange(provider="claude"), now=1e6)
    assert list(provider_down(traffic, Thresholds(), 1e6)) == []


def test_a_provider_that_is_down_is_found_with_its_numbers() -> None:
    """Where no credential is annotated the alert is about the provider."""
    (found,) = outcomes_of("x" * 12, Thresholds())

    assert found == Finding(
        type="provider_down",
        subject=Subject("provider", "claude", "claude"),
        severity="critical",
        title="Provider claude failing (12 failures)",
        message="claude failed 12 times in a row",
        value=12,
        metadata={"failures": 12, "threshold": 10},
    )
    assert found.fingerprint == "provider_down:provider:claude"


def test_a_credential_that_is_down_is_found_by_its_id() -> None:
    """One spent API key is told apart from a provider that fails everyone."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for _ in range(10):
        traffic.observe(exchange(provider="claude", credential="c1", status=502), now=0)
        traffic.observe(exchange(provider="claude", credential="c2"), now=0)

    (found,) = provider_down(traffic, Thresholds(), 0)

    assert found.fingerprint == "provider_down:apikey:c1"
    assert found.subject == Subject("apikey", "c1", "claude")
    assert found.message == "API key 'c1' of claude failed 10 times in a row"


@pytest.mark.parametrize(
    ("hits", "tries", "bound"),
    [
        (0, 10, 0.0),
        (1, 10, 0.0226),
        (5, 10, 0.2693),
        (10, 10, 0.7870),
        (50, 100, 0.4188),
        (100, 1000, 0.0855),
    ],
)
def test_wilsons_lower_bound_is_that_of_the_tables(hits: int, tries: int, bound: float) -> None:
    """The values are those of a two-sided 90 % interval."""
    assert wilson_lower_bound(hits, tries) == pytest.approx(bound, abs=5e-5)


@given(counts=st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_at_wilsons_bound_what_was_seen_is_just_within_the_quantile(
    counts: tuple[int, int],
) -> None:
    """The share seen lies exactly 1.6449 standard errors of the bound above the bound."""
    hits, tries = counts

    bound = wilson_lower_bound(hits, tries)

    assert 0 < bound < hits / tries
    error = (bound * (1 - bound) / tries) ** 0.5
    assert hits / tries - bound == pytest.approx(1.6449 * error, rel=1e-6)
