"""Thresholds: defaults, valid ranges, changes and error messages."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Thresholds, default_rules
from tokenpulse_mw.alerts.evaluator import Evaluator, RuleSet
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.thresholds import METRICS, Flag, InvalidThresholds

from .exchanges import exchange
from .findings import never_silenced
from .observed_traffic import ObservedTraffic

SHARES = {
    "error_rate",
    "provider_error_rate",
    "upstream_quota",
    "quota_warning",
    "budget_warning",
}
INVALID_NUMBERS = [0, -1, True, "1", math.nan, math.inf, 10**400, [1]]
WHOLE = {
    "error_min_requests",
    "provider_failures",
    "credential_rejections",
    "min_rpm_requests_1m",
    "min_tpm_tokens_1m",
} | {metric for metric in METRICS if metric != "global_qps"}
WAITS = {
    "provider_error_hold",
    "provider_latency_hold",
    "provider_429_hold",
    "keep_firing",
    "traffic_keep_firing",
}
FLAGS = {"error_evidence", "count_client_errors"}
# Minimum and maximum of the numbers that are not only above 0.
RANGES = {
    "critical_factor": ("1", "1e+15"),
    "error_window": ("1", "2592000"),
    "resolve_ratio": ("0.01", "1"),
    "global_qps": ("0.001", "1e+15"),
    "provider_429_rpm": ("0.001", "1e+15"),
    "provider_latency_p95": ("0.001", "2592000"),
    "stalled_first_byte": ("0.001", "2592000"),
    "stalled_stream": ("0.001", "2592000"),
}
NUMBERS = set(Thresholds.fields()) - WAITS - FLAGS - set(RANGES)
OPTIONAL = {*METRICS, "error_rate", "provider_failures", "provider_error_rate"} | {
    "provider_latency_p95",
    "provider_429_rpm",
    "credential_rejections",
    "stalled_first_byte",
    "stalled_stream",
    "upstream_quota",
    "quota_warning",
    "budget_warning",
}


def with_value(name: str, value: Any) -> Thresholds:
    """Return thresholds with one value other than the default."""
    return Thresholds(**{name: value})


def problem_of(name: str, value: object) -> str:
    """Return the problem of an invalid value."""
    with pytest.raises(InvalidThresholds) as caught:
        with_value(name, value)
    ((field, problem),) = caught.value.problems
    assert (field, str(caught.value)) == (name, f"{name} {problem}")
    return problem


def test_defaults_are_those_of_the_seed() -> None:
    """The seed has these values in its code."""
    thresholds = Thresholds()

    assert (thresholds.error_rate, thresholds.error_window) == (0.1, 300)
    assert (thresholds.error_min_requests, thresholds.provider_failures) == (10, 10)
    assert (thresholds.quota_warning, thresholds.critical_factor) == (0.9, 2)
    assert (thresholds.provider_latency_p95, thresholds.provider_latency_hold) == (5, 300)
    assert (thresholds.provider_429_rpm, thresholds.provider_429_hold) == (10, 120)


def test_other_defaults_switch_thresholds_of_traffic_off() -> None:
    """The seed has none of these values."""
    thresholds = Thresholds()

    assert (thresholds.error_evidence, thresholds.count_client_errors) == (True, False)
    assert (thresholds.resolve_ratio, thresholds.budget_warning) == (0.8, 0.8)
    assert (thresholds.keep_firing, thresholds.traffic_keep_firing) == (300, 900)
    assert (thresholds.provider_error_rate, thresholds.provider_error_hold) == (0.05, 300)
    assert (thresholds.min_rpm_requests_1m, thresholds.min_tpm_tokens_1m) == (10, 1000)
    assert [getattr(thresholds, metric) for metric in METRICS] == [None] * 5


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_none_switches_a_rule_off(name: str) -> None:
    """None is a valid value of these thresholds."""
    assert getattr(with_value(name, None), name) is None


@pytest.mark.parametrize("name", sorted(set(Thresholds.fields()) - OPTIONAL))
def test_none_is_invalid_for_windows_minimums_and_waits(name: str) -> None:
    """These thresholds always have a value."""
    assert problem_of(name, None).endswith("got None")


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize("value", INVALID_NUMBERS)
def test_defect_9_number_that_is_not_above_0_is_rejected(name: str, value: object) -> None:
    """A threshold of 0 would always fire; in the seed it was critical at once."""
    kind = "an integer" if name in WHOLE else "a number"
    off = ", or None to disable it" if name in OPTIONAL else ""
    most = "1" if name in SHARES else "1e+15"

    problem = problem_of(name, value)

    assert problem.startswith(f"must be {kind} above 0 and at most {most}{off}, got ")


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("value", [5e-324, 1e-310, *INVALID_NUMBERS])
def test_number_outside_its_range_is_rejected(name: str, value: object) -> None:
    """The smallest values would become 0 when they are divided."""
    least, most = RANGES[name]
    off = ", or None to disable it" if name in OPTIONAL else ""

    problem = problem_of(name, value)

    assert problem.startswith(f"must be a number of at least {least} and at most {most}{off}, got ")


@pytest.mark.parametrize("name", ["error_window", "provider_latency_p95", *sorted(WAITS)])
def test_time_is_at_most_30_days(name: str) -> None:
    """30 days are valid, and a second more is not."""
    assert getattr(with_value(name, 30 * 86_400), name) == 2_592_000
    off = ", or None to disable it" if name in OPTIONAL else ""
    assert problem_of(name, 2_592_001).endswith(f"and at most 2592000{off}, got 2592001")


def valid_values(name: str) -> st.SearchStrategy[Any]:
    """Return a strategy for valid values of a threshold, including the ends of its range."""
    allowed = next(field for field in fields(Thresholds) if field.name == name).metadata["allowed"]
    if isinstance(allowed, Flag):
        return st.booleans()
    least = 5e-324 if allowed.least is None else allowed.least
    values = (
        st.integers(max(int(least), 1), int(allowed.most))
        if allowed.whole
        else st.one_of(st.sampled_from([least, allowed.most]), st.floats(least, allowed.most))
    )
    return st.one_of(st.none(), values) if allowed.optional else values


VALID = {name: valid_values(name) for name in Thresholds.fields()}


@given(chosen=st.fixed_dictionaries({}, optional=VALID))
def test_evaluator_works_with_all_valid_thresholds(chosen: dict[str, Any]) -> None:
    """No rule raises, and without traffic there is no finding in the end."""
    reported: list[str] = []

    def report(component: str, error: Exception) -> None:
        reported.append(f"{component}: {error!r}")

    evaluator = Evaluator(
        RuleSet(default_rules(), interval=60, report=report),
        Thresholds(),
        cooldown=300,
        max_subjects=5,
        bucket_seconds=5,
        is_silenced=never_silenced,
        report=report,
    )
    traffic = evaluator.traffic = ObservedTraffic(Thresholds(), max_subjects=5)
    thresholds = Thresholds(**chosen)
    finish(evaluator.set_thresholds(thresholds))
    for number in range(12):
        status = (200, 429, 500)[number % 3]
        finished = exchange(tenant="m", api_key="k", provider="claude", status=status)
        traffic.observe(finished, 1000)

    finish(evaluator.dry_run(thresholds, 1001, report))
    finish(evaluator.evaluate(thresholds, 1001, 1001))
    evaluator.traffic.observe(exchange(provider="claude"), 1e8)
    finish(evaluator.evaluate(thresholds, 1e8, 1e8))
    evaluator.traffic.advance(2e8)
    findings = finish(evaluator.dry_run(thresholds, 2e8, report))

    assert reported == []
    assert findings == []


@pytest.mark.parametrize("name", sorted(WAITS))
def test_wait_may_be_0_but_not_negative(name: str) -> None:
    """With 0 the alert fires or resolves at once."""
    assert getattr(with_value(name, 0), name) == 0
    assert problem_of(name, -1) == "must be a number of at least 0 and at most 2592000, got -1"


def test_critical_factor_is_at_least_1() -> None:
    """Below 1 a traffic spike would be critical before it is a warning."""
    assert Thresholds(critical_factor=1).critical_factor == 1
    expected = "must be a number of at least 1 and at most 1e+15, got 0.9"
    assert problem_of("critical_factor", 0.9) == expected


@pytest.mark.parametrize("name", sorted(FLAGS))
@pytest.mark.parametrize("value", [0, 1, "yes"])
def test_flag_must_be_a_bool(name: str, value: object) -> None:
    """Other values are not converted."""
    assert problem_of(name, value) == f"must be true or false, got {value!r}"


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_count_must_be_a_whole_number(name: str) -> None:
    """A fraction is rejected, not rounded."""
    assert "must be an integer above 0" in problem_of(name, 1.5)


@pytest.mark.parametrize("name", sorted(SHARES))
def test_share_is_at_most_1(name: str) -> None:
    """1 itself is valid."""
    assert getattr(with_value(name, 1), name) == 1
    assert "at most 1" in problem_of(name, 1.01)


@pytest.mark.parametrize("name", sorted(NUMBERS - SHARES))
def test_other_numbers_may_be_large(name: str) -> None:
    """A large gateway has a trillion tokens a day."""
    assert getattr(with_value(name, 10**12), name) == 10**12


def test_error_message_shortens_the_value() -> None:
    """The admin API returns the message to its client."""
    assert len(problem_of("error_rate", "x" * 10**6)) < 150


def test_error_lists_every_invalid_value() -> None:
    """The order is that of the fields."""
    with pytest.raises(InvalidThresholds) as caught:
        Thresholds(master_rpm=0, error_window=-1, resolve_ratio=2)

    names = [name for name, _ in caught.value.problems]
    assert names == ["master_rpm", "error_window", "resolve_ratio"]
    assert str(caught.value).count("; ") == 2


def test_thresholds_are_restored_from_json() -> None:
    """The values that `as_dict` returns are valid arguments."""
    thresholds = Thresholds(master_tpd=10**12)

    values = json.loads(json.dumps(thresholds.as_dict()))

    assert tuple(values) == Thresholds.fields()
    assert Thresholds(**values) == thresholds


def test_changed_returns_a_copy() -> None:
    """The original stays unchanged."""
    thresholds = Thresholds(master_rpm=100)

    changed = thresholds.changed(master_rpm=None, global_qps=2.5)

    assert (changed.master_rpm, changed.global_qps) == (None, 2.5)
    assert (thresholds.master_rpm, thresholds.global_qps) == (100, None)


def test_changed_reports_unknown_names_and_invalid_values_together() -> None:
    """One error lists unknown names and invalid values."""
    with pytest.raises(InvalidThresholds) as caught:
        Thresholds().changed(master_rpn=5, error_rate=7, master_rpm=5)
    assert caught.value.problems == [
        ("master_rpn", "is not a threshold"),
        ("error_rate", "must be a number above 0 and at most 1, or None to disable it, got 7"),
    ]

    with pytest.raises(InvalidThresholds) as caught:
        Thresholds().changed(nonsense=None)
    assert caught.value.problems == [("nonsense", "is not a threshold")]


@pytest.mark.parametrize(
    ("metric", "minimum"),
    [("master_rpm", "min_rpm_requests_1m"), ("master_tpm", "min_tpm_tokens_1m")],
)
def test_defect_8_traffic_spike_needs_the_threshold_and_the_minimum(
    metric: str, minimum: str
) -> None:
    """The higher of the two decides; the seed did not document that."""
    below: dict[str, Any] = {metric: 5, minimum: 50}
    above: dict[str, Any] = {metric: 500, minimum: 50}

    assert Thresholds(**below).fires_at(metric) == 50
    assert Thresholds(**above).fires_at(metric) == 500


@pytest.mark.parametrize("metric", METRICS)
def test_metric_without_a_threshold_never_fires(metric: str) -> None:
    """The level at which the metric fires is infinite."""
    assert Thresholds().fires_at(metric) == math.inf


@given(value=st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()))
def test_value_is_unchanged_or_rejected(value: Any) -> None:
    """No value is converted or clamped."""
    if value is None or (type(value) is int and 0 < value <= 10**15):
        assert Thresholds().changed(master_rpd=value).master_rpd is value
    else:
        with pytest.raises(InvalidThresholds, match=r"^master_rpd must be an integer above 0"):
            Thresholds().changed(master_rpd=value)
