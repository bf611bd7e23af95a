"""What an outage explains is not told beside it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tokenpulse_mw.alerts import Finding, Subject
from tokenpulse_mw.alerts.rules import (
    error_spike,
    high_error_rate,
    inhibited,
    outages,
    provider_down,
)

from .scenario import Scenario, findings_of, severities


def findings(scenario: Scenario) -> list[Finding]:
    """What the three rules that look at failures find in one round."""
    found: list[Finding] = []
    for rule in (error_spike, high_error_rate, provider_down):
        found += findings_of(rule, scenario.traffic, scenario.thresholds)
    return found


def explained(found: Iterable[Finding]) -> list[Finding]:
    """`found`, by the outages among them."""
    found = list(found)
    return inhibited(found, down=outages(found))


def test_errors_that_came_from_a_provider_that_is_down_are_explained() -> None:
    """The outage alone fires; what it explains says so, and an alert that fires already stays."""
    scenario = Scenario()
    scenario.observe(20, api_key="k1", provider="claude", status=502)

    left = explained(findings(scenario))

    assert severities(left) == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
        "provider_down:provider:claude": "critical",
    }
    for each in left[:2]:
        assert each.metadata["inhibited_by"] == ["provider_down:provider:claude"]


def test_errors_of_a_credential_that_is_down_are_explained() -> None:
    """Where credentials are known the outage is one's, whoever else answers for the provider."""
    scenario = Scenario()
    scenario.observe(100, provider="claude", credential="c2")
    scenario.observe(20, api_key="k1", provider="claude", credential="c1", status=502)

    assert severities(explained(findings(scenario))) == {
        "error_spike:key:k1": None,
        "high_error_rate:provider:claude": None,
        "provider_down:apikey:c1": "critical",
    }


@pytest.mark.parametrize(("others", "severity"), [(2, None), (3, "critical")])
def test_a_key_is_not_explained_by_an_outage_that_is_not_nearly_all_of_it(
    others: int, severity: str | None
) -> None:
    """A tenth of the failures may have come from elsewhere; more is trouble of its own."""
    scenario = Scenario()
    scenario.observe(18, api_key="k1", provider="claude", status=502)
    scenario.observe(others, api_key="k1", provider="gemini", status=502)

    assert severities(explained(findings(scenario)))["error_spike:key:k1"] == severity


def test_two_outages_explain_together() -> None:
    """A key that asks two providers, both of which are down, has no trouble of its own."""
    scenario = Scenario()
    scenario.observe(10, api_key="k1", provider="claude", status=502)
    scenario.observe(10, api_key="k1", provider="gemini", status=502)

    (spike, *_) = explained(findings(scenario))

    assert (spike.type, spike.severity) == ("error_spike", None)
    assert sorted(spike.metadata["inhibited_by"]) == [
        "provider_down:provider:claude",
        "provider_down:provider:gemini",
    ]


def test_another_keys_errors_are_not_explained() -> None:
    """An outage of one provider says nothing of failures of another, or of our own."""
    scenario = Scenario()
    scenario.observe(20, api_key="k1", provider="claude", status=502)
    for _ in range(10):
        scenario.observe(api_key="k2", provider="gemini", status=502)
        scenario.observe(provider="gemini")
        scenario.observe(api_key="k3", status=500)

    left = severities(explained(findings(scenario)))

    assert left["error_spike:key:k2"] == "critical"
    assert left["error_spike:key:k3"] == "critical"
    assert left["high_error_rate:provider:gemini"] == "critical"


def test_a_provider_that_is_not_down_yet_explains_nothing() -> None:
    """Nine failures in a row are no outage."""
    scenario = Scenario()
    scenario.observe(10, api_key="k1", provider="claude")
    scenario.observe(9, api_key="k1", provider="claude", status=502)

    assert severities(explained(findings(scenario)))["error_spike:key:k1"] == "warning"


def test_the_findings_stay_as_many_and_in_their_order() -> None:
    """Whoever gave them together can tell whose each is; what is no error rate stays as it is."""
    other = Finding(
        type="any", subject=Subject("key", "k1"), severity="info", title="any", message="any"
    )
    bare = Finding(
        type="error_spike", subject=Subject("key", "k2"), severity="info", title="", message=""
    )
    scenario = Scenario()
    scenario.observe(20, api_key="k1", provider="claude", status=502)
    found = [other, *findings(scenario), bare]

    left = explained(iter(found))

    assert [each.fingerprint for each in left] == [each.fingerprint for each in found]
    assert (left[0], left[-2], left[-1]) == (other, found[-2], bare)
    assert explained([]) == []
