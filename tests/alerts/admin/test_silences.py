"""Silences over HTTP."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tokenpulse_mw.alerts.store import Matcher

from .gateway import NOON, PREFIX, TOKEN, Api, trouble

K1 = {"name": "subject_id", "value": "k1"}


def silence(api: Api, **body: Any) -> Any:
    """What a new silence is answered with."""
    return api.ask("POST", "/silences", json={"matchers": [K1], **body})


def test_a_silence_begins_now_and_lasts_as_long_as_is_said() -> None:
    """It is found where the answer says it is."""
    api = Api()

    answer = silence(api, duration=3600, comment="a new disk", by="ada")

    made = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (
        201,
        f"{PREFIX}/silences/{made['id']}",
    )
    assert made == {
        "id": made["id"],
        "matchers": [{"name": "subject_id", "value": "k1", "is_regex": False, "is_equal": True}],
        "starts_at": "2027-01-15T08:00:00Z",
        "ends_at": "2027-01-15T09:00:00Z",
        "created_by": "ada",
        "comment": "a new disk",
    }
    assert api.get(f"/silences/{made['id']}") == made
    assert api.get("/silences") == {"silences": [made]}


def test_a_silence_may_be_planned() -> None:
    """Times have an offset, and are shown in UTC."""
    times = {"starts_at": "2027-02-01T10:00:00+02:00", "ends_at": "2027-02-01T09:00:00Z"}

    made = silence(Api(), **times).json()

    assert (made["starts_at"], made["ends_at"]) == ("2027-02-01T08:00:00Z", "2027-02-01T09:00:00Z")


def test_a_duration_counts_from_the_start() -> None:
    """Not from when it is planned."""
    made = silence(Api(), starts_at="2027-02-01T08:00:00Z", duration=60).json()

    assert made["ends_at"] == "2027-02-01T08:01:00Z"


def test_nobody_is_told_of_what_is_silenced() -> None:
    """What the API changes, the engine goes by; and so it does when a silence is ended."""
    told: list[str] = []

    async def remember(event: Any) -> None:
        told.append(event.finding.subject.id)

    api = Api(trouble(), trouble("k2"), sinks=[remember])
    made = silence(api, duration=3600).json()
    api.round()
    first = list(told)

    answer = api.ask("DELETE", f"/silences/{made['id']}")
    api.clock.advance(60)
    api.round()

    assert (answer.status_code, answer.content) == (204, b"")
    assert first == ["k2"]
    assert told == ["k2", "k1"]


def test_a_silence_that_has_ended_is_not_listed() -> None:
    """Whoever looks sees what is silenced now."""
    api = Api()
    made = silence(api, duration=60).json()
    api.clock.advance(60)

    assert api.get("/silences") == {"silences": []}
    assert api.refused("GET", f"/silences/{made['id']}") == (404, [])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_silence_that_is_not_there_is_not_found(method: str) -> None:
    """Also where there is another one."""
    api = Api()
    silence(api, duration=60)

    assert api.refused(method, "/silences/s1") == (404, [])


@pytest.mark.parametrize(
    ("body", "locs"),
    [
        ({}, [["ends_at"]]),
        ({"ends_at": "2027-02-01T09:00:00Z", "duration": 60}, [["ends_at"]]),
        ({"ends_at": "2027-01-15T08:00:00Z"}, [["ends_at"]]),
        ({"ends_at": "2027-02-01T09:00:00"}, [["ends_at"]]),
        ({"ends_at": 1_900_000_000}, [["ends_at"]]),
        ({"starts_at": "2020-01-01T00:00:00Z", "duration": 60}, [["duration"]]),
        (
            {"starts_at": "2027-02-01T09:00:00Z", "ends_at": "2027-02-01T08:00:00Z"},
            [["ends_at"]],
        ),
        ({"duration": 0}, [["duration"]]),
        ({"duration": 1e300}, [["duration"]]),
        ({"duration": 60, "comment": "x" * 1001}, [["comment"]]),
        ({"duration": 60, "matchers": []}, [["matchers"]]),
        ({"duration": 60, "matchers": [K1] * 21}, [["matchers"]]),
        ({"duration": 60, "matchers": [K1, {"name": "metric"}]}, [["matchers", 1, "value"]]),
        ({"duration": 60, "matchers": [{**K1, "isRegex": True}]}, [["matchers", 0, "isRegex"]]),
        (
            {
                "matchers": [
                    {"name": "colour", "value": "red"},
                    K1,
                    {"name": "metric", "value": "(", "is_regex": True},
                    {"name": "metric", "value": "(a+)+", "is_regex": True},
                ]
            },
            [["matchers", 0], ["matchers", 2], ["matchers", 3], ["ends_at"]],
        ),
    ],
)
def test_a_wrong_silence_is_refused(body: Any, locs: list[list[Any]]) -> None:
    """Every wrong matcher is named: a silence that hides too much, or nothing, is seen late."""
    api = Api()

    answer = api.refused("POST", "/silences", json={"matchers": [K1], **body})

    assert answer == (422, locs)
    assert api.engine.controls.silences == []


def test_there_is_an_end_to_silences() -> None:
    """More than a thousand are refused, until one is ended."""
    api = Api()

    async def fill() -> None:
        for _ in range(1000):
            await api.engine.controls.silence(Matcher("metric", "x"), ends_at=NOON + 60, by="ada")

    anyio.run(fill)

    answer = silence(api, duration=60)

    assert answer.status_code == 409
    assert "remove one" in answer.json()["detail"]


def test_a_silence_is_found_below_a_mount() -> None:
    """The place of a new one is that which the client has to ask, also with odd names in it."""
    api = Api()
    app = Starlette(routes=[Mount("/grün", routes=api.routes)])
    client = TestClient(app, headers={"authorization": f"Bearer {TOKEN}"})

    made = client.post(f"/grün{PREFIX}/silences", json={"matchers": [K1], "duration": 60})

    assert made.headers["location"].startswith(f"/gr%C3%BCn{PREFIX}/silences/")
    assert client.get(made.headers["location"]).json() == made.json()
    assert api.engine.controls.silences[0].starts_at == NOON
