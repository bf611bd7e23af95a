"""The `stalled_request` rule."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenpulse_mw.alerts import Finding, Subject, stalled_request
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.traffic.bucket import Bucket, Profile, ReportKey
from tokenpulse_mw.exchange import RequestsInProgress

from ...support.clock import FakeClock
from .open_request import Open
from .scenario import Scenario


def in_progress(*requests: Open) -> RequestsInProgress:
    """Return requests in progress at the time 1000."""
    registry = RequestsInProgress(clock=FakeClock(1000.0))
    registry.open.update(dict.fromkeys(requests))
    return registry


def stalled(*requests: Open, **thresholds: Any) -> list[Finding]:
    """Return the findings for these requests."""
    return Scenario(**thresholds).evaluate(stalled_request(in_progress(*requests)))


@pytest.mark.parametrize(
    ("started", "phase", "found"),
    [
        (401, "waiting", False),
        (400, "waiting", True),
        (881, "streaming", False),
        (880, "streaming", True),
    ],
)
def test_request_is_stalled_from_the_threshold_of_its_phase_on(
    started: float, phase: str, found: bool
) -> None:
    """It may wait ten minutes for the first byte, and two minutes for a further one."""
    assert bool(stalled(Open(started, phase))) == found


def test_finding_names_route_provider_tenant_and_times() -> None:
    """Requests of a route and a provider are one alert, with details of the longest idle one."""
    facts = {"tenant": "7", "tenant_name": "Acme", "model": "opus", "credential": "c1"}
    requests = [Open(390), Open(300, **facts, credential_group="prod"), Open(999)]

    (finding,) = stalled(*requests)

    assert finding.fingerprint == "stalled_request:waiting:claude:route:/v1/chat"
    assert finding.subject == Subject("route", "/v1/chat", "/v1/chat")
    assert (finding.severity, finding.title) == ("warning", "2 stalled requests to claude")
    assert finding.message == (
        "2 requests of route /v1/chat to claude got no byte of the response for 11m40s (the "
        "longest idle one: age 11m40s, tenant 'Acme', model 'opus', credential 'prod')"
    )
    assert finding.value == 700
    assert finding.metadata == {
        "requests": 2,
        "provider": "claude",
        "phase": "waiting",
        "idle": 700,
        "threshold": 600,
    }


def test_unnamed_tenant_and_credential_are_shown_by_id() -> None:
    """Ids are quoted, because clients may have chosen them."""
    (finding,) = stalled(Open(0, "streaming", tenant="a\nb", credential="c1"))

    assert finding.title == "1 stalled request to claude"
    assert "got no further byte for 16m40s" in finding.message
    assert "tenant 'a\\nb', credential 'c1'" in finding.message


def test_routes_phases_and_providers_are_separate_alerts() -> None:
    """Each has another cause."""
    findings = stalled(
        Open(0), Open(0, "streaming"), Open(0, route="/v1/other"), Open(0, provider="codex")
    )

    assert len({finding.fingerprint for finding in findings}) == 4


def test_phase_without_a_threshold_is_never_stalled() -> None:
    """None disables one phase, or both the rule."""
    requests = [Open(0), Open(0, "streaming")]

    (finding,) = stalled(*requests, stalled_first_byte=None)
    assert finding.metadata["phase"] == "streaming"
    assert stalled(*requests, stalled_first_byte=None, stalled_stream=None) == []


@pytest.mark.anyio
async def test_requests_of_other_processes_are_reported_to_the_leader() -> None:
    """The report has the longest idle time of each route, and the number of requests."""
    other = stalled_request(in_progress(Open(300), Open(100), Open(999.5), Open(990, "streaming")))
    report = await other.report()
    assert report == {
        ("stalled_request", "waiting:claude", "/v1/chat"): (900.0, 1.0, 2.0),
        ("stalled_request", "streaming:claude", "/v1/chat"): (10.0, 1.0, 1.0),
    }
    scenario = Scenario()
    report[ReportKey("budget", "dollars", "acme")] = (9000.0, 1.0, 0.0)
    report[ReportKey("stalled_request", "new-phase:claude", "/v1/chat")] = (9000.0, 1.0, 1.0)
    finish(scenario.traffic.apply(Bucket(0, Profile.of(scenario.thresholds), reports=report)))

    (finding,) = scenario.evaluate(stalled_request(in_progress(Open(200))))
    assert finding.message == (
        "2 requests of route /v1/chat to claude got no byte of the response for 15m0s"
    )
    (finding,) = scenario.evaluate(stalled_request(in_progress(Open(0))))
    assert (finding.metadata["requests"], finding.value) == (1, 1000)


@pytest.mark.parametrize(
    "usage",
    [
        (math.inf, 1.0, 1.0),
        (math.nan, 1.0, 1.0),
        (9000.0, 1.0, math.nan),
        (9000.0, 1.0, math.inf),
        (9000.0, 1.0, -5.0),
    ],
)
def test_damaged_report_is_ignored(usage: tuple[float, float, float]) -> None:
    """The requests of this process are still examined."""
    scenario = Scenario()
    reports = {ReportKey("stalled_request", "waiting:codex", "/v1/chat"): usage}
    finish(scenario.traffic.apply(Bucket(0, Profile.of(scenario.thresholds), reports=reports)))

    (finding,) = scenario.evaluate(stalled_request(in_progress(Open(0))))

    assert finding.metadata["provider"] == "claude"


def test_only_the_oldest_hundred_requests_are_examined() -> None:
    """An evaluation with very many stalled requests stays short."""
    (finding,) = stalled(*(Open(0) for _ in range(150)))

    assert finding.metadata["requests"] == 100


def test_rule_needs_requests_in_progress() -> None:
    """The error names what is expected."""
    with pytest.raises(ValueError, match=r"^in_progress must be RequestsInProgress\(\.\.\.\), got"):
        stalled_request(3)  # type: ignore[arg-type]
