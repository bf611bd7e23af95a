"""The `upstream_quota_low` rule."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenpulse_mw import Exchange
from tokenpulse_mw.alerts import Finding, Subject, upstream_quota_low
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.traffic.bucket import Bucket, Profile, ReportKey
from tokenpulse_mw.exchange import UpstreamQuota, UpstreamQuotas

from .scenario import Scenario


def quotas(remaining: int, limit: int | None = 100, **fields: Any) -> UpstreamQuotas:
    """Return the state after a response of the provider `openai`."""
    state = UpstreamQuotas()
    add(state, remaining, limit, **fields)
    return state


def add(
    state: UpstreamQuotas, remaining: int, limit: int | None, unit: Any = "requests", **fields: Any
) -> None:
    """Add a response of the provider `openai`."""
    quota = UpstreamQuota(unit, remaining, limit, None)
    state.add(Exchange("POST", 0.0, provider="openai", upstream=(quota,), **fields))


def low(state: UpstreamQuotas, **thresholds: Any) -> list[Finding]:
    """Return the findings."""
    return Scenario(**thresholds).evaluate(upstream_quota_low(state))


@pytest.mark.parametrize(
    ("remaining", "limit", "severities"),
    [
        (100, 100, []),
        (13, 100, []),
        (12, 100, [None]),
        (11, 100, [None]),
        (10, 100, ["warning"]),
        (1, 100, ["warning"]),
        (0, 100, ["critical"]),
        (5, None, []),
        (0, None, ["critical"]),
    ],
)
def test_limit_is_low_from_a_tenth_on_and_critical_at_its_end(
    remaining: int, limit: int | None, severities: list[str | None]
) -> None:
    """Above an eighth, the alert ends (`resolve_ratio`). A limit without a size is low at 0."""
    assert [finding.severity for finding in low(quotas(remaining, limit))] == severities


def test_finding_names_provider_model_and_numbers() -> None:
    """Without a credential, the subject is the provider."""
    (finding,) = low(quotas(8, model="gpt-5"))

    assert finding.fingerprint == "upstream_quota_low:requests:provider:openai"
    assert finding.title == "8% of the provider's requests left"
    assert finding.message == (
        "Provider 'openai' has 8 of 100 requests left (8.0%) for model 'gpt-5', as its last "
        "response reports"
    )
    assert finding.metadata == {
        "remaining": 8,
        "limit": 100,
        "provider": "openai",
        "model": "gpt-5",
        "threshold": 0.1,
    }


def test_credential_with_its_group_is_the_subject() -> None:
    """Each credential has its own limits."""
    state = quotas(8, credential="c1", credential_group="prod")
    add(state, 5, 100, "tokens", credential="c2")

    first, second = low(state)

    assert first.subject == Subject("apikey", "c1", "prod")
    assert first.message.startswith("API Key ID c1 in group 'prod' of provider 'openai' has 8 of")
    assert second.fingerprint == "upstream_quota_low:tokens:apikey:c2"
    assert second.message.startswith("API Key ID c2 of provider 'openai' has 5 of 100 tokens")


def test_lowest_of_several_models_counts() -> None:
    """Vendors limit by model, and the alert is about the tightest one."""
    state = quotas(9, model="a")
    add(state, 3, 100, model="b")
    add(state, 80, 100, model="c")

    (finding,) = low(state)

    assert (finding.value, finding.metadata["model"]) == (0.03, "b")


@pytest.mark.anyio
async def test_limits_seen_by_other_processes_are_reported_to_the_leader() -> None:
    """A limit of which half is used is reported; the lower state of a limit counts."""
    other = quotas(4, credential="c1")
    add(other, 90, 100, "tokens")
    report = await upstream_quota_low(other).report()
    assert len(report) == 1
    scenario = Scenario()
    (key,) = report
    report[ReportKey("budget", "dollars", "acme")] = (10.0, 10.0, 0.0)
    report[ReportKey("upstream_quota_low", "requests", '["openai","x","","","requests"]')] = (
        math.nan,
        100.0,
        0.0,
    )
    finish(scenario.traffic.apply(Bucket(0, Profile.of(scenario.thresholds), reports=report)))

    (finding,) = scenario.evaluate(upstream_quota_low(quotas(7, credential="c1")))

    assert key[:2] == ("upstream_quota_low", "requests")
    assert (finding.subject.id, finding.metadata["remaining"]) == ("c1", 4)


def test_credential_with_and_without_its_group_is_one_alert() -> None:
    """The finding is that of the lower limit, and not of the first one."""
    state = quotas(1, credential="c1", model="a")
    add(state, 0, 100, credential="c1", credential_group="prod", model="b")

    (finding,) = low(state)

    assert (finding.severity, finding.subject) == ("critical", Subject("apikey", "c1", "prod"))


@pytest.mark.anyio
async def test_model_that_is_not_valid_utf_8_does_not_disable_the_rule() -> None:
    """An application may annotate the model of a client, which JSON allows to be half a pair."""
    state = quotas(8, model="\ud800")

    (finding,) = low(state)

    assert finding.metadata["model"] == "\\ud800"
    assert len(await upstream_quota_low(state).report()) == 1


@pytest.mark.parametrize("key", ["damaged", '["openai"]', "[1,2,3,4,5]"])
def test_damaged_report_is_ignored(key: str) -> None:
    """The other limits are still examined."""
    scenario = Scenario()
    reports = {ReportKey("upstream_quota_low", "requests", key): (100.0, 100.0, 0.0)}
    finish(scenario.traffic.apply(Bucket(0, Profile.of(scenario.thresholds), reports=reports)))

    (finding,) = scenario.evaluate(upstream_quota_low(quotas(7)))

    assert finding.value == 0.07


def test_rule_without_a_threshold_finds_nothing() -> None:
    """None disables it."""
    assert low(quotas(0), upstream_quota=None) == []


def test_rule_needs_upstream_quotas() -> None:
    """The error names what is expected."""
    with pytest.raises(ValueError, match=r"^upstream must be UpstreamQuotas\(\.\.\.\), got 3$"):
        upstream_quota_low(3)  # type: ignore[arg-type]
