"""Answers of several processes that share a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    Fleet,
    MemoryAlertStore,
    Rejected,
    SQLAlertStore,
    Thresholds,
)
from tokenpulse_mw.alerts.admin import alert_routes
from tokenpulse_mw.alerts.rules import error_spike
from tokenpulse_mw.alerts.store import AlertStore

from ...support.clock import FakeClock
from ..exchanges import exchange
from .api import AUTHORIZE, NOON, PREFIX, TOKEN, Api, FixedRule, accepting, trouble

NewReplica = Callable[..., "Replica"]

IF_ANY = {"if-match": "*"}
READS = [
    "",
    "?state=active",
    "/thresholds",
    "/thresholds/history",
    "/silences",
    "/rules",
    "/sinks",
    "/deliveries/dead",
    "/fleet",
    "/openapi.json",
]


class Replica:
    """Process with an engine and the routes of the admin API.

    Attributes:
        engine: The engine.
        events: The events that its sink has received in the last evaluation.
    """

    def __init__(self, store: AlertStore, clock: FakeClock, **options: Any) -> None:
        self.events: list[AlertEvent] = []

        async def page(event: AlertEvent) -> None:
            self.events.append(event)

        self.engine = AlertEngine(
            **{"rules": [FixedRule(trouble())], "sinks": [page], **options},
            store=store,
            clock=clock,
            wall=clock,
        )
        app = Starlette(routes=alert_routes(self.engine, authorize=AUTHORIZE))
        self.client = TestClient(app, headers={"authorization": f"Bearer {TOKEN}"})

    def request(self, method: str, path: str = "", **options: Any) -> Response:
        """Return the response to a request; `path` is below the prefix."""
        return self.client.request(method, PREFIX + path, **options)

    def get(self, path: str = "") -> Any:
        """Return the JSON body of a successful GET request."""
        response = self.request("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def evaluate(self) -> list[str]:
        """Evaluate the rules once, and return the transitions that were reported."""
        assert self.client.portal is not None
        self.events.clear()
        self.client.portal.call(self.engine.evaluate)
        return [event.transition for event in self.events]


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock of all processes."""
    return FakeClock(NOON)


@pytest.fixture(params=["memory", "sqlite"])
def replica(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> Iterator[NewReplica]:
    """Return a function that creates a process; all of them share a store."""
    memory = MemoryAlertStore(wall=clock)
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    with ExitStack() as exits:

        def create(**options: Any) -> Replica:
            is_memory = request.param == "memory"
            created = Replica(
                memory if is_memory else SQLAlertStore(url, wall=clock), clock, **options
            )
            client = exits.enter_context(created.client)
            assert client.portal is not None
            exits.callback(client.portal.call, created.engine.store.aclose)
            return created

        yield create


def test_every_process_returns_the_leader_and_all_processes(
    replica: NewReplica, clock: FakeClock
) -> None:
    """The leader is the process that evaluates, and the ages are those of the heartbeats."""
    first, second = replica(), replica()
    first.evaluate()
    clock.advance(1)

    body = second.get("/fleet")

    (leader, member) = body.pop("members")
    assert body == {
        "leader": {name: leader[name] for name in ("name", "host", "pid")},
        "epoch": 1,
        "evaluated_at": "2027-01-15T08:00:00Z",
        "complete_since": "2027-01-15T08:00:00Z",
        "revision": 1,
    }
    assert (leader["leads"], member["leads"]) == (True, False)
    assert leader["name"] != member["name"]
    assert (leader["host"], leader["pid"]) == (member["host"], member["pid"])
    assert set(leader) == {
        *("name", "host", "pid", "version", "protocol", "started_at"),
        *("heartbeat_age_seconds", "may_lead", "leads", "differs"),
    }


def test_age_of_a_process_is_the_time_since_its_heartbeat(
    replica: NewReplica, clock: FakeClock
) -> None:
    """A process that has stopped is listed with a growing age."""
    first, second = replica(), replica()
    first.evaluate()
    clock.advance(12)

    ages = [member["heartbeat_age_seconds"] for member in second.get("/fleet")["members"]]

    assert ages == [12, 0]


def test_processes_that_differ_from_the_leader_are_marked(
    replica: NewReplica, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Other rules or sinks are listed for each process, and logged by the leader once."""
    first, second = replica(), replica(rules=[error_spike], sinks=[accepting, accepting])
    first.evaluate()
    clock.advance(1)
    second.evaluate()
    for _ in range(2):
        first.evaluate()

    members = first.get("/fleet")["members"]

    assert [member["differs"] for member in members] == [[], ["rules", "sinks"]]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith(
        "processes of one alert store have different rules and sinks, so alerts depend on which of "
        "them leads (logged once): configure them alike, or give each gateway its own database: "
        f"process={members[1]['name']} rules=error_spike sinks=accepting,accepting-2 "
        "heartbeat=5 error_window=300 count_client_errors=False latencies="
    )


def test_no_leader_is_null(replica: NewReplica) -> None:
    """Processes that must not lead are listed without a leader."""
    body = replica(fleet=Fleet(leads=False)).get("/fleet")

    assert (body["leader"], body["epoch"], body["evaluated_at"]) == (None, 0, None)
    (member,) = body["members"]
    assert (member["may_lead"], member["leads"], member["differs"]) == (False, False, [])


def test_fleet_without_a_store_gets_503() -> None:
    """A heartbeat that the store rejects is not shown as a fleet."""

    class Broken(MemoryAlertStore):
        async def heartbeat(self, *arguments: Any, **options: Any) -> Any:
            raise OSError("disk full")

    assert Api(store=Broken()).request("GET", "/fleet").status_code == 503


def test_every_get_has_the_same_bytes_from_every_process(replica: NewReplica) -> None:
    """Alerts, details, thresholds, silences, queues, dead letters and the fleet are the store's."""

    async def page(event: AlertEvent) -> None:
        raise OSError("receiver down")

    async def rejecting(event: AlertEvent) -> None:
        raise Rejected("unknown channel")

    alike = {"sinks": [page, rejecting]}
    first, second = replica(**alike), replica(**alike)
    first.evaluate()
    second.evaluate()
    alert_id = first.get()["alerts"][0]["id"]
    second.request("POST", f"/{alert_id}/ack", json={"note": "seen", "by": "ada"})
    first.request("PATCH", "/thresholds", json={"thresholds": {"master_rpm": 9}}, headers=IF_ANY)
    silence = {"matchers": [{"name": "subject_id", "value": "k1"}], "duration": 60}
    silence_id = second.request("POST", "/silences", json=silence).json()["id"]

    reads = [*READS, f"/{alert_id}", f"/silences/{silence_id}"]
    answers = [[replica.request("GET", path) for path in reads] for replica in (first, second)]

    assert {response.status_code for response in answers[0]} == {200}
    assert [answer.content for answer in answers[0]] == [answer.content for answer in answers[1]]
    assert second.get()["alerts"][0]["silenced_by"] == silence_id
    assert second.get("/sinks")["sinks"] == [
        {"name": "page", "waiting": 1},
        {"name": "rejecting", "waiting": 0},
    ]
    assert len(second.get("/deliveries/dead")["dead_letters"]) == 1


def test_etag_of_one_process_is_valid_in_the_others(replica: NewReplica) -> None:
    """A read through one process and a change through another lose no change."""
    first, second = replica(), replica()
    first.evaluate()

    etags = [first.request("GET", "/thresholds").headers["etag"]]
    for number, writer in enumerate([second, first, second], 1):
        response = writer.request(
            "PATCH",
            "/thresholds",
            json={"thresholds": {"master_rpm": number}},
            headers={"if-match": etags[-1]},
        )
        assert response.status_code == 200
        etags.append(response.headers["etag"])

    assert etags == ['"0"', '"1"', '"2"', '"3"']
    assert first.get("/thresholds")["thresholds"]["master_rpm"] == 3
    stale = {"if-match": '"2"'}
    body = {"thresholds": {"master_rpm": 4}}
    assert first.request("PATCH", "/thresholds", json=body, headers=stale).status_code == 412


def test_thresholds_of_a_newer_version_survive_a_change_by_an_older_one(
    replica: NewReplica,
) -> None:
    """During a deployment, `PUT` of all known thresholds keeps those that only the store has."""
    first = replica()
    values = {**Thresholds().as_dict(), "gpu_seconds": 7}
    assert first.client.portal is not None
    store = first.engine.store
    first.client.portal.call(lambda: store.set_thresholds(values, expected=None, by="eve", at=NOON))

    body = {"thresholds": Thresholds(master_rpm=5).as_dict()}
    response = first.request("PUT", "/thresholds", json=body, headers={"if-match": '"1"'})

    assert (response.status_code, "gpu_seconds" in response.json()["thresholds"]) == (200, False)
    (newest, _) = first.get("/thresholds/history")["versions"]
    assert (newest["thresholds"]["gpu_seconds"], newest["thresholds"]["master_rpm"]) == (7, 5)


def test_acknowledgement_through_a_member_stops_the_reminders_of_the_leader(
    replica: NewReplica, clock: FakeClock
) -> None:
    """It applies in the leader at its next heartbeat."""
    leader, member = replica(cooldown=30), replica(cooldown=30)
    assert (leader.evaluate(), member.evaluate()) == (["fired"], [])
    clock.advance(30)
    assert leader.evaluate() == ["reminded"]

    alert_id = member.get()["alerts"][0]["id"]
    assert member.request("POST", f"/{alert_id}/ack").status_code == 200
    clock.advance(30)

    assert leader.evaluate() == []
    assert leader.get()["alerts"][0]["ack"]["by"] == "unknown"


def test_silence_through_a_member_applies_in_the_leader(replica: NewReplica) -> None:
    """An alert that it matches is reported only after a member has expired the silence."""
    rule = FixedRule()
    leader, member = replica(rules=[rule]), replica(rules=[rule])
    leader.evaluate()
    silence = {"matchers": [{"name": "subject_id", "value": "k1"}], "duration": 60}
    silence_id = member.request("POST", "/silences", json=silence).json()["id"]

    rule.findings = [trouble()]
    silenced = leader.evaluate()
    assert member.request("DELETE", f"/silences/{silence_id}").status_code == 204

    assert (silenced, leader.evaluate()) == ([], ["fired"])


def test_dry_run_through_a_member_evaluates_the_traffic_of_all(replica: NewReplica) -> None:
    """The windows are those of the leader."""
    alike = {"rules": [error_spike], "thresholds": Thresholds(error_rate=0.9)}
    leader, member = replica(**alike), replica(**alike)
    for engine in (leader.engine, member.engine):
        for number in range(50):
            engine.observe(exchange(api_key="k1", status=500 if number < 15 else 200))
    leader.evaluate()

    body = {"thresholds": {"error_rate": 0.1}}
    response = member.request("POST", "/evaluate", json=body)

    (finding,) = response.json()["findings"]
    assert finding["metadata"]["requests"] == 100
    assert not member.engine.leads
