"""The alerts over HTTP."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tokenpulse_mw.alerts import Finding, Subject

from ..store import samples
from .gateway import Api, trouble

QPS = Finding(
    type="traffic_spike",
    subject=Subject("system", "0", "gateway"),
    severity="critical",
    title="Traffic",
    message="There is much of it.",
    metric="global_qps",
    value=float("nan"),
)


def ids(api: Api, query: str = "") -> list[str]:
    """The subjects of a page."""
    return [each["subject"]["id"] for each in api.get(query)["alerts"]]


def test_an_alert_says_all_that_is_known_of_it() -> None:
    """Times are RFC 3339, and what there is not is null."""
    api = Api(trouble(metadata={"errors": 7}, metric="rate", value=0.7))
    api.round()

    (alert,) = api.get()["alerts"]

    assert len(alert.pop("id")) == 32
    assert alert == {
        "fingerprint": "trouble:rate:key:k1",
        "rule": "found",
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
    ("query", "found"),
    [
        ("?state=firing", {"0", "k1", "k2"}),
        ("?state=resolved", set[str]()),
        ("?severity=critical", {"0"}),
        ("?type=trouble", {"k1", "k2"}),
        ("?subject=key:k1", {"k1"}),
        ("?subject=system:0&severity=warning", set[str]()),
    ],
)
def test_alerts_can_be_picked(query: str, found: set[str]) -> None:
    """Only those that all filters pick are given."""
    api = Api(trouble(), trouble("k2"), QPS)
    api.round()

    assert set(ids(api, query)) == found


@pytest.mark.parametrize("query", ["state=burning", "severity=", "subject=k1", "cursor=x"])
def test_a_wrong_filter_is_refused(query: str) -> None:
    """An empty page would look as if all was well."""
    answer = Api().refused("GET", f"?{query}")

    assert answer == (422, [["query", query.partition("=")[0]]])


def test_a_wrong_filter_is_told_what_there_is() -> None:
    """The answer says what came, and what was expected."""
    answer = Api().ask("GET", "?state=burning")

    assert answer.json()["errors"][0]["msg"] == (
        "must be one of pending, firing, recovering, resolved, got 'burning'"
    )


def test_a_list_is_read_page_by_page() -> None:
    """The cursor of a page leads to those that follow, and the last has none."""
    api = Api(*(trouble(f"k{number}") for number in range(5)))
    api.round()

    first = api.get("?limit=3")
    second = api.get(f"?limit=3&cursor={first['next']}")

    found = [each["subject"]["id"] for each in first["alerts"] + second["alerts"]]
    assert (sorted(found), second["next"]) == ([f"k{number}" for number in range(5)], None)


def test_an_alert_comes_with_what_happened_to_it() -> None:
    """The oldest first."""
    api = Api(trouble(value=1))
    api.round()
    api.clock.advance(60)
    api.rule.findings = [trouble(severity="critical", value=2)]
    api.round()
    api.rule.findings = []
    api.round()

    alert = api.get(f"/{api.alert_id()}")

    assert alert["resolve_reason"] == "not found any more"
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


def test_an_alert_can_be_acknowledged_and_not_any_more() -> None:
    """The answer is the alert as it is then; doing so again changes only who and when."""
    api = Api(trouble())
    api.round()
    path = f"/{api.alert_id()}"

    acks = [
        api.ask("POST", f"{path}/ack", json={"note": "on it", "by": "ada"}).json()["ack"],
        api.ask("POST", f"{path}/ack").json()["ack"],
        api.ask("POST", f"{path}/unack").json()["ack"],
        api.ask("POST", f"{path}/unack").json()["ack"],
    ]

    noon = "2027-01-15T08:00:00Z"
    assert acks == [
        {"by": "ada", "at": noon, "note": "on it"},
        {"by": "unknown", "at": noon, "note": ""},
        None,
        None,
    ]


def test_nobody_is_reminded_of_what_somebody_has_seen() -> None:
    """What the API changes, the engine goes by."""
    told: list[str] = []

    async def remember(event: Any) -> None:
        told.append(event.transition)

    api = Api(trouble(), sinks=[remember])
    api.round()
    api.ask("POST", f"/{api.alert_id()}/ack")
    api.clock.advance(600)
    api.round()

    assert told == ["fired"]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/ack"), ("POST", "/unack")])
def test_an_alert_that_is_not_there_is_not_found(method: str, path: str) -> None:
    """An id is one, or it is none."""
    assert Api().refused(method, f"/a1{path}") == (404, [])


def test_an_alert_says_which_silence_covers_it() -> None:
    """As long as both last."""
    api = Api(trouble(), trouble("k2"))
    api.round()
    body = {"matchers": [{"name": "subject_id", "value": "k1"}], "duration": 60}
    silence = api.ask("POST", "/silences", json=body).json()["id"]

    covered = {each["subject"]["id"]: each["silenced_by"] for each in api.get()["alerts"]}
    api.rule.findings = []
    api.round()

    assert covered == {"k1": silence, "k2": None}
    assert {each["silenced_by"] for each in api.get("?state=resolved")["alerts"]} == {None}


def test_what_cannot_be_told_of_an_alert_is_left_out() -> None:
    """What another release has kept, or a number that JSON has not, breaks no list."""
    api = Api(QPS)
    api.round()
    odd = samples.alert(finding={"subject": ["key", "k9"], "metadata": 1, "value": "high"})
    far = samples.resolved("a2", at=1e18, finding={"subject": ["key", "k1"], "value": 10**400})
    anyio.run(api.engine.store.commit, samples.alerts(odd, far))
    api.ask(
        "POST", "/silences", json={"matchers": [{"name": "metric", "value": ""}], "duration": 9}
    )

    shown = api.get()["alerts"]

    assert [each["subject"]["id"] for each in shown] == ["0", "k1", "k9"]
    assert [each["value"] for each in shown] == [None, None, None]
    assert shown[1]["resolved_at"] == "9999-12-31T23:59:59Z"
    assert (shown[2]["title"], shown[2]["metadata"], shown[2]["silenced_by"]) == ("", {}, None)


def test_a_number_without_end_breaks_no_list() -> None:
    """A rule that counts what no number of JSON can hold is shown with the rest."""
    api = Api(trouble(value=10**400, metadata={"n": 10**5000}, hold_for=60), trouble("k2"))
    api.round()

    shown = {each["subject"]["id"]: each for each in api.get()["alerts"]}

    assert (shown["k1"]["value"], shown["k1"]["metadata"]) == (None, {"n": "<int>"})
    assert shown["k2"]["value"] == 0
