"""What helps before and after a change."""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent, Finding, Rejected, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.rules import error_spike

from ..exchanges import exchange
from ..store import samples
from .gateway import NOON, Api, deaf


async def failing(event: AlertEvent) -> None:
    """A sink that takes nothing."""
    raise Rejected("it answered 404\nof no such hook")


def high(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
    """Somebody sends much.

    And more of the same.
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


def test_a_dry_run_says_what_a_round_would_find() -> None:
    """Nothing comes of it: no alert, and nobody is told."""
    api = Api(rules=[high])

    findings = [
        api.ask("POST", "/evaluate").json()["findings"],
        api.ask("POST", "/evaluate", json={"thresholds": {"master_rpm": 9}}).json()["findings"],
    ]

    assert [[each["severity"] for each in found] for found in findings] == [[None], ["warning"]]
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


def test_a_dry_run_judges_the_traffic_of_now() -> None:
    """Thresholds can be tried before they are set."""
    api = Api(rules=[error_spike])
    for number in range(100):
        api.engine.observe(exchange(api_key="k1", status=500 if number < 30 else 200))

    def found(error_rate: float) -> list[str | None]:
        body = {"thresholds": {"error_rate": error_rate}}
        answer = api.ask("POST", "/evaluate", json=body).json()
        return [each["severity"] for each in answer["findings"]]

    assert (found(0.1), found(0.35), found(0.9)) == (["warning"], [None], [])


def test_wrong_thresholds_are_not_tried() -> None:
    """They are refused as they would be if they were set."""
    answer = Api().refused("POST", "/evaluate", json={"thresholds": {"error_rate": 2}})

    assert answer == (422, [["thresholds", "error_rate"]])


def test_the_rules_say_what_they_look_for() -> None:
    """By their names, in the order in which they are asked."""
    api = Api(rules=[error_spike, high, high, lambda traffic, thresholds, now: []])

    assert api.get("/rules")["rules"] == [
        {"name": "error_spike", "description": "Find keys with a high error rate."},
        {"name": "high", "description": "Somebody sends much."},
        {"name": "high-2", "description": "Somebody sends much."},
        {"name": "<lambda>", "description": ""},
    ]


def test_the_sinks_say_how_much_waits_for_them() -> None:
    """Whoever wonders where an alert is sees where it is stuck."""
    api = Api(rules=[high], sinks=[deaf, deaf], thresholds=Thresholds(master_rpm=1))

    assert api.get("/sinks")["sinks"] == [
        {"name": "deaf", "waiting": 0},
        {"name": "deaf-2", "waiting": 0},
    ]


def test_dead_letters_are_kept_for_those_who_ask() -> None:
    """With what they were to tell, and why they were given up; the newest first."""
    api = Api()

    async def give_up() -> None:
        await api.engine.store.commit(samples.notifications("n1", "n2"))
        await api.engine.store.dead("n1", NOON, "it answered 404")
        await api.engine.store.dead("n2", NOON + 1, "it answered 410")

    anyio.run(give_up)

    dead = api.get("/deliveries/dead?limit=1")["dead_letters"]

    assert dead == [
        {
            "id": "n2",
            "sink": "log",
            "alert_id": "a1",
            "fingerprint": "trouble:key:a1",
            "attempts": 0,
            "created_at": "1970-01-01T00:01:40Z",
            "at": "2027-01-15T08:00:01Z",
            "error": "it answered 410",
            "event": {"transition": "fired"},
        }
    ]


def test_a_test_alert_is_told_at_once() -> None:
    """To the sink that is named, and to no other."""
    told: list[str] = []

    async def remember(event: AlertEvent) -> None:
        told.append(event.finding.title)

    answer = Api(sinks=[remember, failing]).ask("POST", "/test", json={"sink": "remember"})

    assert (answer.status_code, answer.json()) == (200, {"sink": "remember", "ok": True})
    assert told == ["Test alert"]


def test_a_test_alert_that_is_not_taken_says_why() -> None:
    """502: it is the sink that fails."""
    answer = Api(sinks=[failing]).ask("POST", "/test", json={"sink": "failing"})

    assert answer.status_code == 502
    assert answer.json()["detail"] == (
        "failing did not take the test alert: it answered 404 of no such hook."
    )


@pytest.mark.parametrize(("sinks", "names"), [([deaf, failing], "deaf, failing"), ([], "none")])
def test_an_unknown_sink_is_told_which_there_are(sinks: list[object], names: str) -> None:
    """Names may be misspelled."""
    answer = Api(sinks=sinks).ask("POST", "/test", json={"sink": "mail"})

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"loc": ["sink"], "msg": f"must be one of {names}"}]
