"""Thresholds: refused where they mean nothing."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Thresholds, default_rules
from tokenpulse_mw.alerts.evaluator import Evaluator
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.thresholds import METRICS, Flag, InvalidThresholds

from .exchanges import exchange
from .findings import never_silenced

SHARES = {"error_rate", "provider_error_rate", "quota_warning"}
NO_NUMBERS = [0, -1, True, "1", math.nan, math.inf, 10**400, [1]]
WHOLE = {"error_min_requests", "provider_failures", "min_rpm_requests_1m", "min_tpm_tokens_1m"} | {
    metric for metric in METRICS if metric != "global_qps"
}
WAITS = {"provider_error_hold", "provider_latency_hold", "provider_429_hold", "keep_firing"}
FLAGS = {"error_evidence", "count_client_errors"}
TENTHS = {"global_qps": "1e+15", "provider_429_rpm": "1e+15", "provider_latency_p95": "2592000"}
OTHERS = {"critical_factor", "error_window", "resolve_ratio", *TENTHS}
NUMBERS = set(Thresholds.fields()) - WAITS - FLAGS - OTHERS
OPTIONAL = {*METRICS, "error_rate", "provider_failures", "provider_error_rate"} | {
    "provider_latency_p95",
    "provider_429_rpm",
    "quota_warning",
}


def problem_of(name: str, value: object) -> str:
    """What is said of a wrong value."""
    chosen: dict[str, Any] = {name: value}
    with pytest.raises(InvalidThresholds) as caught:
        Thresholds(**chosen)
    ((field, problem),) = caught.value.problems
    assert (field, str(caught.value)) == (name, f"{name} {problem}")
    return problem


def test_the_defaults_are_the_seeds_where_it_tells_them() -> None:
    """A tenth of at least ten requests in five minutes, ten failures in a row, and the like."""
    thresholds = Thresholds()

    assert (thresholds.error_rate, thresholds.error_window) == (0.1, 300)
    assert (thresholds.error_min_requests, thresholds.provider_failures) == (10, 10)
    assert (thresholds.quota_warning, thresholds.critical_factor) == (0.9, 2)
    assert (thresholds.provider_latency_p95, thresholds.provider_latency_hold) == (5, 300)
    assert (thresholds.provider_429_rpm, thresholds.provider_429_hold) == (10, 120)


def test_the_other_defaults_are_ours() -> None:
    """Evidence is asked for, clients' errors are their own, and traffic is what it is."""
    thresholds = Thresholds()

    assert (thresholds.error_evidence, thresholds.count_client_errors) == (True, False)
    assert (thresholds.resolve_ratio, thresholds.keep_firing) == (0.8, 0)
    assert (thresholds.provider_error_rate, thresholds.provider_error_hold) == (0.05, 300)
    assert (thresholds.min_rpm_requests_1m, thresholds.min_tpm_tokens_1m) == (10, 1000)
    assert [getattr(thresholds, metric) for metric in METRICS] == [None] * 5


@pytest.mark.parametrize("name", sorted(OPTIONAL))
def test_none_is_a_threshold_that_is_off(name: str) -> None:
    """A rule is switched off by giving it no threshold."""
    chosen: dict[str, Any] = {name: None}

    assert getattr(Thresholds(**chosen), name) is None


@pytest.mark.parametrize("name", sorted(set(Thresholds.fields()) - OPTIONAL))
def test_what_is_no_threshold_cannot_be_off(name: str) -> None:
    """A window, a minimum or a wait always has a value."""
    assert problem_of(name, None).endswith("got None")


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_defect_9_what_is_no_number_above_0_is_refused(name: str, value: object) -> None:
    """A threshold of 0 would always fire; the seed's is critical at once, and has no "off"."""
    kind = "whole number" if name in WHOLE else "number"
    off = ", or None to switch it off" if name in OPTIONAL else ""
    most = "1" if name in SHARES else r"1e\+15"

    problem = problem_of(name, value)

    assert pytest.RaisesExc(
        ValueError, match=f"^must be a {kind} above 0 and at most {most}{off}, got "
    ).matches(ValueError(problem))


@pytest.mark.parametrize("name", sorted(OTHERS))
@pytest.mark.parametrize("value", [5e-324, 1e-310, *NO_NUMBERS])
def test_what_would_vanish_when_it_is_divided_is_refused(name: str, value: object) -> None:
    """A window is cut into ten steps, a latency into buckets, a rate is taken over 10 s."""
    least, most = {"critical_factor": (1, "1e+15"), "error_window": (1, "2592000")}.get(
        name, (0.01, "1") if name == "resolve_ratio" else (0.001, TENTHS.get(name))
    )
    off = ", or None to switch it off" if name in OPTIONAL else ""

    problem = problem_of(name, value)

    assert problem.startswith(f"must be a number of at least {least} and at most {most}{off}, got ")


@pytest.mark.parametrize("name", ["error_window", "provider_latency_p95", *sorted(WAITS)])
def test_no_time_is_longer_than_30_days(name: str) -> None:
    """Nobody waits as long, and nothing is remembered so long."""
    longest: dict[str, Any] = {name: 30 * 86_400}

    assert getattr(Thresholds(**longest), name) == 2_592_000
    assert problem_of(name, 2_592_001).endswith("and at most 2592000, got 2592001") or (
        name == "provider_latency_p95"
    )


def some(name: str) -> st.SearchStrategy[Any]:
    """Values of a threshold that are allowed, those at the ends among them."""
    allowed: Any = next(each for each in fields(Thresholds) if each.name == name)
    allowed = allowed.metadata["allowed"]
    if isinstance(allowed, Flag):
        return st.booleans()
    least = 5e-324 if allowed.least is None else allowed.least
    values = (
        st.integers(max(int(least), 1), int(allowed.most))
        if allowed.whole
        else st.one_of(st.sampled_from([least, allowed.most]), st.floats(least, allowed.most))
    )
    return st.one_of(st.none(), values) if allowed.optional else values


SOME = {name: some(name) for name in Thresholds.fields()}


@given(chosen=st.fixed_dictionaries({}, optional=SOME))
def test_whatever_is_taken_can_be_gone_by(chosen: dict[str, Any]) -> None:
    """Counting, judging and trying raise nothing, and without traffic every finding ends."""
    heard: list[str] = []
    judge = Evaluator(
        default_rules(),
        thresholds=Thresholds(),
        interval=60,
        cooldown=300,
        max_subjects=5,
        is_silenced=never_silenced,
        report=lambda component, error: heard.append(f"{component}: {error!r}"),
    )
    thresholds = Thresholds(**chosen)
    finish(judge.set_thresholds(thresholds))
    for number in range(12):
        seen = exchange(
            tenant="m", api_key="k", provider="claude", status=(200, 429, 500)[number % 3]
        )
        judge.traffic.observe(seen, 1000)

    finish(judge.dry_run(thresholds, 1001))
    finish(judge.evaluate(thresholds, 1001, 1001))
    judge.traffic.observe(exchange(provider="claude"), 1e8)
    finish(judge.evaluate(thresholds, 1e8, 1e8))
    left = finish(judge.dry_run(thresholds, 2e8))

    assert heard == []
    assert left == []


@pytest.mark.parametrize("name", sorted(WAITS))
def test_a_wait_may_be_nothing_but_not_less(name: str) -> None:
    """0 s is at once."""
    at_once: dict[str, Any] = {name: 0}

    assert getattr(Thresholds(**at_once), name) == 0
    assert problem_of(name, -1) == "must be a number of at least 0 and at most 2592000, got -1"


def test_what_is_critical_is_no_less_than_what_is_a_warning() -> None:
    """A factor below 1 would make a spike critical before it is one."""
    assert Thresholds(critical_factor=1).critical_factor == 1
    expected = "must be a number of at least 1 and at most 1e+15, got 0.9"
    assert problem_of("critical_factor", 0.9) == expected


@pytest.mark.parametrize("name", sorted(FLAGS))
@pytest.mark.parametrize("value", [0, 1, "yes"])
def test_a_flag_is_true_or_false(name: str, value: object) -> None:
    """What merely counts as true may be a mistake."""
    assert problem_of(name, value) == f"must be true or false, got {value!r}"


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_what_is_counted_is_whole(name: str) -> None:
    """There is no half request."""
    assert "must be a whole number above 0" in problem_of(name, 1.5)


@pytest.mark.parametrize("name", sorted(SHARES))
def test_a_share_is_at_most_1(name: str) -> None:
    """All there is is allowed as a share, and more is refused."""
    all_of_it: dict[str, Any] = {name: 1}

    assert getattr(Thresholds(**all_of_it), name) == 1
    assert "at most 1" in problem_of(name, 1.01)


@pytest.mark.parametrize("name", sorted(NUMBERS - SHARES))
def test_what_is_no_share_may_be_as_large_as_a_gateway_gets(name: str) -> None:
    """A trillion tokens a day are nothing special."""
    chosen: dict[str, Any] = {name: 10**12}

    assert getattr(Thresholds(**chosen), name) == 10**12


def test_a_wrong_value_is_shown_in_short() -> None:
    """What an API was sent is not sent back in full."""
    assert len(problem_of("error_rate", "x" * 10**6)) < 150


def test_every_wrong_value_is_told_of() -> None:
    """Whoever sends three wrong values need not try three times."""
    with pytest.raises(InvalidThresholds) as caught:
        Thresholds(master_rpm=0, error_window=-1, resolve_ratio=2)

    names = [name for name, _ in caught.value.problems]
    assert names == ["master_rpm", "error_window", "resolve_ratio"]
    assert str(caught.value).count("; ") == 2


def test_all_thresholds_are_fit_for_json() -> None:
    """What an API shows is what it takes."""
    thresholds = Thresholds(master_tpd=10**12)

    shown = json.loads(json.dumps(thresholds.as_dict()))

    assert tuple(shown) == Thresholds.fields()
    assert Thresholds(**shown) == thresholds


def test_a_change_gives_a_copy() -> None:
    """What a round began with stays as it was until the round is over."""
    thresholds = Thresholds(master_rpm=100)

    changed = thresholds.changed(master_rpm=None, global_qps=2.5)

    assert (changed.master_rpm, changed.global_qps) == (None, 2.5)
    assert (thresholds.master_rpm, thresholds.global_qps) == (100, None)


def test_a_change_tells_of_unknown_names_and_of_wrong_values_together() -> None:
    """Nothing is changed where anything is wrong, and nothing is clamped."""
    with pytest.raises(InvalidThresholds) as caught:
        Thresholds().changed(master_rpn=5, error_rate=7, master_rpm=5)
    assert caught.value.problems == [
        ("master_rpn", "is not a threshold"),
        ("error_rate", "must be a number above 0 and at most 1, or None to switch it off, got 7"),
    ]

    with pytest.raises(InvalidThresholds) as caught:
        Thresholds().changed(nonsense=None)
    assert caught.value.problems == [("nonsense", "is not a threshold")]


@pytest.mark.parametrize(
    ("metric", "least"),
    [("master_rpm", "min_rpm_requests_1m"), ("master_tpm", "min_tpm_tokens_1m")],
)
def test_defect_8_the_higher_of_a_threshold_and_its_minimum_decides(
    metric: str, least: str
) -> None:
    """The seed does so without a word; here it is what the minimum means, and it is allowed."""
    below: dict[str, Any] = {metric: 5, least: 50}
    above: dict[str, Any] = {metric: 500, least: 50}

    assert Thresholds(**below).fires_at(metric) == 50
    assert Thresholds(**above).fires_at(metric) == 500


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_that_is_off_never_fires(metric: str) -> None:
    """No number reaches it."""
    assert Thresholds().fires_at(metric) == math.inf


@given(value=st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()))
def test_whatever_is_given_is_taken_as_it_is_or_refused_with_a_reason(value: Any) -> None:
    """No value is changed on its way in."""
    if value is None or (type(value) is int and 0 < value <= 10**15):
        assert Thresholds().changed(master_rpd=value).master_rpd is value
    else:
        with pytest.raises(InvalidThresholds, match=r"^master_rpd must be a whole number above 0"):
            Thresholds().changed(master_rpd=value)
