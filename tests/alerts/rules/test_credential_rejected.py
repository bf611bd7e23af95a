"""The `credential_rejected` rule."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import credential_rejected, provider_down

from .scenario import Scenario

STATUS = {"x": 401, "f": 403, ".": 200, "e": 502, "l": 429, "b": 400}


def rejections(outcomes: str, **thresholds: Any) -> list[Finding]:
    """Return the findings after responses with these statuses, one a second."""
    scenario = Scenario(**thresholds)
    for second, outcome in enumerate(outcomes):
        scenario.observe(
            now=second, provider="claude", credential="c1", status=STATUS[outcome], method="POST"
        )
    return scenario.evaluate(credential_rejected, now=len(outcomes))


@pytest.mark.parametrize(
    ("outcomes", "severities"),
    [
        ("", []),
        ("." * 20, []),
        ("xxxx", [None]),
        ("xfxfx", ["critical"]),
        (".....xxxxx", ["critical"]),
        ("xxxx.xxxx", [None]),
        ("xxxxx.", []),
        ("xxbxxelx", ["critical"]),
        ("x" * 200, ["critical"]),
        ("x" * 200 + ".", []),
        ("eeeee", []),
    ],
)
def test_credential_is_rejected_after_five_rejections_in_a_row(
    outcomes: str, severities: list[Severity | None]
) -> None:
    """Only a success ends the row: other errors say nothing about the credential."""
    assert [finding.severity for finding in rejections(outcomes)] == severities


def test_finding_names_the_credential_and_what_to_do() -> None:
    """The subject is that of `provider_down` for a credential."""
    (finding,) = rejections("xxxxx")

    assert finding.fingerprint == "credential_rejected:apikey:c1"
    assert finding.subject == Subject("apikey", "c1", "claude")
    assert finding.title == "Provider API key rejected (5 times in a row)"
    assert finding.message == (
        "API Key ID c1 in group 'claude' got 5 responses with 401 or 403 in a row: it is revoked, "
        "expired or not permitted"
    )
    assert finding.value == 5
    assert finding.metadata == {"rejections": 5, "threshold": 5, "provider": "claude"}


def test_group_of_the_credential_is_its_name() -> None:
    """The provider stays in the metadata, which labels are made of."""
    scenario = Scenario()
    scenario.observe(5, credential="c1", credential_group="prod", provider="claude", status=401)

    (finding,) = scenario.evaluate(credential_rejected)

    assert finding.subject == Subject("apikey", "c1", "prod")
    assert "in group 'prod'" in finding.message
    assert finding.metadata["provider"] == "claude"


def test_credentials_are_counted_separately() -> None:
    """A success of one does not end the row of another, within one second too."""
    scenario = Scenario()
    for _ in range(5):
        scenario.observe(credential="bad", status=401, provider="claude")
        scenario.observe(credential="good", provider="claude")

    (finding,) = scenario.evaluate(credential_rejected)

    assert finding.subject.id == "bad"


def test_responses_without_a_credential_are_those_of_clients() -> None:
    """A client may have sent an invalid token to the gateway."""
    scenario = Scenario()
    scenario.observe(10, provider="claude", status=401)
    scenario.observe(10, credential="c1", status=401, limited=True)

    assert scenario.evaluate(credential_rejected) == []


def test_rejected_credential_is_not_down() -> None:
    """It needs another action, and a failing credential is not rejected."""
    scenario = Scenario()
    scenario.observe(20, credential="c1", status=401, provider="claude")
    assert scenario.evaluate(provider_down) == []

    scenario.observe(20, credential="c1", status=502, provider="claude")
    assert [finding.subject.id for finding in scenario.evaluate(provider_down)] == ["c1"]


def test_success_ends_both_rows_at_once() -> None:
    """A credential may fail and be rejected in turn."""
    scenario = Scenario()
    for status in (502, 401, 502, 401):
        scenario.observe(5, credential="c1", status=status, provider="claude")
    scenario.observe(credential="c1", provider="claude", now=1)

    assert scenario.evaluate(provider_down, now=1) == []
    assert scenario.evaluate(credential_rejected, now=1) == []


def test_rejections_of_more_credentials_than_a_bucket_has_room_for_are_left_out() -> None:
    """The number of credentials is bounded like that of all subjects."""
    scenario = Scenario(max_subjects=2)
    for number in range(20):
        scenario.observe(5, credential=f"c{number}", status=401, provider="claude")

    assert len(scenario.evaluate(credential_rejected)) == 2


def test_rule_without_a_threshold_finds_nothing() -> None:
    """None disables it."""
    assert rejections("x" * 20, credential_rejections=None) == []
