"""Operations on the engine: dry run, test alert, and lists of rules, sinks and dead letters."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent, Finding, Rejected, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.rules import error_spike

from ..exchanges import exchange
from ..store import samples
from ..store.leadership import commit
from .api import NOON, Api, accepting


async def rejecting(event: AlertEvent) -> None:
    """Reject every event."""
    raise Rejected("it responded with 404\nfor this hook")


def high(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
    """Find a high rate.

    This line is not part of the description.
    """
    yield Finding(
        type="high",
        subject=Subject("key", "k1"),
        severity="warning" if thresholds.master_rpm else None,
        title="High",
        message="It is high.",
        value=3,
        metadata={"at": {now}},
        hold_for=120,
    )


def test_dry_run_returns_findings_and_changes_nothing() -> None:
    """A dry run returns the findings of an evaluation, and creates no alert."""
    api = Api(rules=[high])

    findings = [
        api.request("POST", "/evaluate").json()["findings"],
        api.request("POST", "/evaluate", json={"thresholds": {"master_rpm": 9}}).json()["findings"],
    ]

    severities = [[finding["severity"] for finding in results] for results in findings]
    assert severities == [[None], ["warning"]]
    assert findings[1] == [
        {
            "fingerprint": "high:key:k1",
            "type": "high",
            "metric": "",
            "severity": "warning",
            "title": "High",
            "message": "It is high.",
            "subject": {"kind": "key", "id": "k1", "name": ""},
            "value": 3,
            "metadata": {"at": [NOON]},
            "hold_for": 120,
        }
    ]
    assert api.engine.thresholds == Thresholds()
    assert api.get() == {"alerts": [], "next": None}


def test_dry_run_evaluates_the_current_traffic() -> None:
    """A dry run evaluates the observed traffic with the thresholds of the request."""
    api = Api(rules=[error_spike])
    for number in range(100):
        api.engine.observe(exchange(api_key="k1", status=500 if number < 30 else 200))

    def severities(error_rate: float) -> list[str | None]:
        body = {"thresholds": {"error_rate": error_rate}}
        response = api.request("POST", "/evaluate", json=body).json()
        return [finding["severity"] for finding in response["findings"]]

    assert (severities(0.1), severities(0.35), severities(0.9)) == (["warning"], [None], [])


def test_dry_run_returns_the_errors_of_rules_that_failed() -> None:
    """Findings that are missing because of an error do not look as if the rule found nothing."""

    def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        raise LookupError("no database\nat all")

    body = Api(rules=[high, broken]).request("POST", "/evaluate").json()

    assert [finding["type"] for finding in body["findings"]] == ["high"]
    assert body["errors"] == [
        {"component": "rule broken", "error": "LookupError: no database at all"}
    ]


def test_dry_run_with_invalid_thresholds_is_rejected() -> None:
    """A dry run validates thresholds as a change does."""
    error = Api().error("POST", "/evaluate", json={"thresholds": {"error_rate": 2}})

    assert error == (422, [["thresholds", "error_rate"]])


def test_rules_are_listed_with_their_descriptions() -> None:
    """Rules are listed in the order of evaluation, with the first lines of their docstrings."""
    api = Api(rules=[error_spike, high, high, lambda traffic, thresholds, now: []])

    assert api.get("/rules")["rules"] == [
        {"name": "error_spike", "description": "Find keys with a high error rate."},
        {"name": "high", "description": "Find a high rate."},
        {"name": "high-2", "description": "Find a high rate."},
        {"name": "<lambda>", "description": ""},
    ]


def test_sinks_are_listed_with_the_lengths_of_their_queues() -> None:
    """Each sink has the number of its queued notifications."""
    api = Api(rules=[high], sinks=[accepting, accepting], thresholds=Thresholds(master_rpm=1))

    assert api.get("/sinks")["sinks"] == [
        {"name": "accepting", "waiting": 0},
        {"name": "accepting-2", "waiting": 0},
    ]


def test_dead_letters_are_listed_newest_first() -> None:
    """Dead letters have their event and their error, and the newest is first."""
    api = Api()

    async def dead_letter() -> None:
        await commit(api.engine.store, samples.notifications("n1", "n2"))
        await api.engine.store.dead("n1", NOON, "it responded with 404")
        await api.engine.store.dead("n2", NOON + 1, "it responded with 410")

    anyio.run(dead_letter)

    dead_letters = api.get("/deliveries/dead?limit=1")["dead_letters"]

    assert dead_letters == [
        {
            "id": "n2",
            "sink": "log",
            "alert_id": "a1",
            "fingerprint": "trouble:key:a1",
            "attempts": 0,
            "created_at": "1970-01-01T00:01:40Z",
            "at": "2027-01-15T08:00:01Z",
            "error": "it responded with 410",
            "event": {"transition": "fired"},
        }
    ]


def test_test_alert_is_sent_to_the_named_sink_only() -> None:
    """A test alert is sent at once to the named sink, and not to the others."""
    titles: list[str] = []

    async def record(event: AlertEvent) -> None:
        titles.append(event.finding.title)

    response = Api(sinks=[record, rejecting]).request("POST", "/test", json={"sink": "record"})

    assert (response.status_code, response.json()) == (200, {"sink": "record", "ok": True})
    assert titles == ["Test alert"]


def test_rejected_test_alert_gets_502_with_the_error() -> None:
    """If the sink does not accept the test alert, the response is 502 with the error."""
    response = Api(sinks=[rejecting]).request("POST", "/test", json={"sink": "rejecting"})

    assert response.status_code == 502
    assert response.json()["detail"] == (
        "Test alert not accepted by rejecting: it responded with 404 for this hook."
    )


@pytest.mark.parametrize(
    ("sinks", "names"), [([accepting, rejecting], "accepting, rejecting"), ([], "none")]
)
def test_error_of_an_unknown_sink_lists_the_sinks(sinks: list[object], names: str) -> None:
    """A test alert for an unknown sink gets 422 with the names of the sinks."""
    response = Api(sinks=sinks).request("POST", "/test", json={"sink": "mail"})

    assert response.status_code == 422
    assert response.json()["errors"] == [{"loc": ["sink"], "msg": f"must be one of {names}"}]
