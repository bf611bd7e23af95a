"""Operations on alerts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tokenpulse_mw.alerts import Finding, Subject

from ..store import samples
from ..store.leadership import commit
from .api import Api, trouble

QPS = Finding(
    type="traffic_spike",
    subject=Subject("system", "0", "global"),
    severity="critical",
    title="Traffic",
    message="There is much of it.",
    metric="global_qps",
    value=float("nan"),
)


def test_alert_has_all_fields_and_null_for_unknown_ones() -> None:
    """An alert has RFC 3339 times, and null for unknown fields."""
    api = Api(trouble(metadata={"errors": 7}, metric="rate", value=0.7))
    api.evaluate()

    (alert,) = api.get()["alerts"]

    assert len(alert.pop("id")) == 32
    assert alert == {
        "fingerprint": "trouble:rate:key:k1",
        "rule": "fixed",
        "type": "trouble",
        "metric": "rate",
        "severity": "warning",
        "state": "firing",
        "title": "Trouble",
        "message": "There is trouble.",
        "subject": {"kind": "key", "id": "k1", "name": ""},
        "value": 0.7,
        "metadata": {"errors": 7},
        "started_at": "2027-01-15T08:00:00Z",
        "fired_at": "2027-01-15T08:00:00Z",
        "resolved_at": None,
        "resolve_reason": None,
        "since": "2027-01-15T08:00:00Z",
        "ack": None,
        "silenced_by": None,
    }


@pytest.mark.parametrize(
    ("query", "subjects"),
    [
        ("?state=firing", {"0", "k1", "k2"}),
        ("?state=resolved", set[str]()),
        ("?severity=critical", {"0"}),
        ("?type=trouble", {"k1", "k2"}),
        ("?subject=key:k1", {"k1"}),
        ("?subject=system:0&severity=warning", set[str]()),
    ],
)
def test_list_with_filters_has_alerts_that_match_all(query: str, subjects: set[str]) -> None:
    """A list has only the alerts that match all filters."""
    api = Api(trouble(), trouble("k2"), QPS)
    api.evaluate()

    assert {alert["subject"]["id"] for alert in api.get(query)["alerts"]} == subjects


def test_active_alerts_are_firing_or_recovering() -> None:
    """A pending alert is not active; one that is no longer found is active until it resolves."""
    api = Api(trouble("k1"), trouble("k2", keep_firing=60), trouble("k3", hold_for=60))
    api.evaluate()
    api.rule.findings = api.rule.findings[:1]
    assert {alert["state"] for alert in api.get("?state=active")["alerts"]} == {"firing"}
    api.evaluate()

    active = api.get("?state=active")["alerts"]

    assert {alert["subject"]["id"]: alert["state"] for alert in active} == {
        "k1": "firing",
        "k2": "recovering",
    }


@pytest.mark.parametrize("query", ["state=burning", "severity=", "subject=k1", "cursor=x"])
def test_invalid_filter_is_rejected(query: str) -> None:
    """An invalid filter gets 422, because an empty page would look as if no alert fires."""
    error = Api().error("GET", f"?{query}")

    assert error == (422, [["query", query.partition("=")[0]]])


def test_error_of_a_filter_has_the_valid_and_the_received_value() -> None:
    """The error of a filter names the valid values and the value that it got."""
    response = Api().request("GET", "?state=burning")

    assert response.json()["errors"][0]["msg"] == (
        "must be one of pending, firing, recovering, resolved, active, got 'burning'"
    )


def test_cursor_returns_the_next_page() -> None:
    """The cursor of a page returns the alerts that follow, and the last page has no cursor."""
    api = Api(*(trouble(f"k{number}") for number in range(5)))
    api.evaluate()

    first = api.get("?limit=3")
    second = api.get(f"?limit=3&cursor={first['next']}")

    subjects = [alert["subject"]["id"] for alert in first["alerts"] + second["alerts"]]
    assert (sorted(subjects), second["next"]) == ([f"k{number}" for number in range(5)], None)


def test_details_have_the_transitions_oldest_first() -> None:
    """The details of an alert have its transitions, oldest first."""
    api = Api(trouble(value=1))
    api.evaluate()
    api.clock.advance(60)
    api.rule.findings = [trouble(severity="critical", value=2)]
    api.evaluate()
    api.rule.findings = []
    api.evaluate()

    alert = api.get(f"/{api.alert_id()}")

    assert alert["resolve_reason"] == "no longer found"
    assert alert["transitions"] == [
        {"transition": "fired", "severity": "warning", "value": 1, "at": "2027-01-15T08:00:00Z"},
        {
            "transition": "escalated",
            "severity": "critical",
            "value": 2,
            "at": "2027-01-15T08:01:00Z",
        },
        {
            "transition": "resolved",
            "severity": "critical",
            "value": 2,
            "at": "2027-01-15T08:01:00Z",
        },
    ]


def test_acknowledgement_can_be_replaced_and_removed() -> None:
    """The response has the changed alert, and a second acknowledgement replaces the first."""
    api = Api(trouble())
    api.evaluate()
    path = f"/{api.alert_id()}"

    acks = [
        api.request("POST", f"{path}/ack", json={"note": "on it", "by": "ada"}).json()["ack"],
        api.request("POST", f"{path}/ack").json()["ack"],
        api.request("POST", f"{path}/unack").json()["ack"],
        api.request("POST", f"{path}/unack").json()["ack"],
    ]

    noon = "2027-01-15T08:00:00Z"
    assert acks == [
        {"by": "ada", "at": noon, "note": "on it"},
        {"by": "unknown", "at": noon, "note": ""},
        None,
        None,
    ]


def test_acknowledged_alert_gets_no_reminders() -> None:
    """An acknowledgement over the API stops the reminders of the engine."""
    transitions: list[str] = []

    async def record(event: Any) -> None:
        transitions.append(event.transition)

    api = Api(trouble(), sinks=[record])
    api.evaluate()
    api.request("POST", f"/{api.alert_id()}/ack")
    api.clock.advance(600)
    api.evaluate()

    assert transitions == ["fired"]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/ack"), ("POST", "/unack")])
def test_unknown_alert_is_not_found(method: str, path: str) -> None:
    """A request for an unknown alert gets 404."""
    assert Api().error(method, f"/a1{path}") == (404, [])


def test_open_alert_has_the_id_of_its_silence() -> None:
    """An alert has the id of an active silence that matches it, until it is resolved."""
    api = Api(trouble(), trouble("k2"))
    api.evaluate()
    body = {"matchers": [{"name": "subject_id", "value": "k1"}], "duration": 60}
    silence = api.request("POST", "/silences", json=body).json()["id"]

    silenced_by = {alert["subject"]["id"]: alert["silenced_by"] for alert in api.get()["alerts"]}
    api.rule.findings = []
    api.evaluate()

    assert silenced_by == {"k1": silence, "k2": None}
    assert {alert["silenced_by"] for alert in api.get("?state=resolved")["alerts"]} == {None}


def test_malformed_finding_is_listed_without_its_invalid_fields() -> None:
    """Findings of other versions, and numbers that JSON cannot represent, do not break a list."""
    api = Api(QPS)
    api.evaluate()
    malformed = samples.alert(finding={"subject": ["key", "k9"], "metadata": 1, "value": "high"})
    future = samples.resolved("a2", at=1e18, finding={"subject": ["key", "k1"], "value": 10**400})
    anyio.run(commit, api.engine.store, samples.alerts(malformed, future))
    silence = {"matchers": [{"name": "metric", "value": ""}], "duration": 9}
    api.request("POST", "/silences", json=silence)

    alerts = api.get()["alerts"]

    assert [alert["subject"]["id"] for alert in alerts] == ["0", "k1", "k9"]
    assert [alert["value"] for alert in alerts] == [None, None, None]
    assert alerts[1]["resolved_at"] == "9999-12-31T23:59:59Z"
    assert (alerts[2]["title"], alerts[2]["metadata"], alerts[2]["silenced_by"]) == ("", {}, None)


def test_huge_number_of_a_rule_is_listed_as_null() -> None:
    """A number that JSON cannot represent becomes null, and the other alerts are unchanged."""
    api = Api(trouble(value=10**400, metadata={"n": 10**5000}, hold_for=60), trouble("k2"))
    api.evaluate()

    alerts = {alert["subject"]["id"]: alert for alert in api.get()["alerts"]}

    assert (alerts["k1"]["value"], alerts["k1"]["metadata"]) == (None, {"n": "<int>"})
    assert alerts["k2"]["value"] == 0
