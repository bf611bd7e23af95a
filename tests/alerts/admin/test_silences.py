"""Operations on silences."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tokenpulse_mw.alerts.store import Matcher

from .api import NOON, PREFIX, TOKEN, Api, trouble

K1 = {"name": "subject_id", "value": "k1"}


def create(api: Api, **body: Any) -> Any:
    """Return the response to a request that creates a silence of k1."""
    return api.request("POST", "/silences", json={"matchers": [K1], **body})


def test_silence_with_a_duration_starts_now() -> None:
    """A silence without `starts_at` starts now, and is found at its location."""
    api = Api()

    response = create(api, duration=3600, comment="a new disk", by="ada")

    silence = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"{PREFIX}/silences/{silence['id']}"
    assert silence == {
        "id": silence["id"],
        "matchers": [{"name": "subject_id", "value": "k1", "is_regex": False, "is_equal": True}],
        "starts_at": "2027-01-15T08:00:00Z",
        "ends_at": "2027-01-15T09:00:00Z",
        "created_by": "ada",
        "comment": "a new disk",
    }
    assert api.get(f"/silences/{silence['id']}") == silence
    assert api.get("/silences") == {"silences": [silence]}


def test_silence_with_offsets_is_shown_in_utc() -> None:
    """The times of a silence may have any offset, and are returned in UTC."""
    times = {"starts_at": "2027-02-01T10:00:00+02:00", "ends_at": "2027-02-01T09:00:00Z"}

    silence = create(Api(), **times).json()

    assert silence["starts_at"] == "2027-02-01T08:00:00Z"
    assert silence["ends_at"] == "2027-02-01T09:00:00Z"


def test_duration_counts_from_the_start_of_the_silence() -> None:
    """The duration of a silence counts from `starts_at`, not from its creation."""
    silence = create(Api(), starts_at="2027-02-01T08:00:00Z", duration=60).json()

    assert silence["ends_at"] == "2027-02-01T08:01:00Z"


def test_silenced_alert_is_reported_after_the_silence_is_deleted() -> None:
    """The engine reports no silenced alert, and reports it when the silence is deleted."""
    subjects: list[str] = []

    async def record(event: Any) -> None:
        subjects.append(event.finding.subject.id)

    api = Api(trouble(), trouble("k2"), sinks=[record])
    silence = create(api, duration=3600).json()
    api.evaluate()
    while_silenced = list(subjects)

    response = api.request("DELETE", f"/silences/{silence['id']}")
    api.clock.advance(60)
    api.evaluate()

    assert (response.status_code, response.content) == (204, b"")
    assert while_silenced == ["k2"]
    assert subjects == ["k2", "k1"]


def test_expired_silence_is_not_listed() -> None:
    """A silence that has ended is neither listed nor found."""
    api = Api()
    silence = create(api, duration=60).json()
    api.clock.advance(60)

    assert api.get("/silences") == {"silences": []}
    assert api.error("GET", f"/silences/{silence['id']}") == (404, [])


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_silence_is_not_found(method: str) -> None:
    """A request for an unknown silence gets 404."""
    api = Api()
    create(api, duration=60)

    assert api.error(method, "/silences/s1") == (404, [])


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
def test_invalid_silence_is_rejected_with_all_errors(body: Any, locs: list[list[Any]]) -> None:
    """An invalid silence gets 422 with the location of each error, and is not created."""
    api = Api()

    error = api.error("POST", "/silences", json={"matchers": [K1], **body})

    assert error == (422, locs)
    assert api.engine.controls.silences == []


def test_silence_over_the_limit_gets_409() -> None:
    """The 1001st silence gets 409, with the advice to remove one."""
    api = Api()

    async def fill() -> None:
        for _ in range(1000):
            await api.engine.controls.silence(Matcher("metric", "x"), ends_at=NOON + 60, by="ada")

    anyio.run(fill)

    response = create(api, duration=60)

    assert response.status_code == 409
    assert "remove one" in response.json()["detail"]


def test_location_of_a_silence_below_a_mount_is_complete_and_encoded() -> None:
    """The location of a new silence has the root path of the API, percent-encoded."""
    api = Api()
    app = Starlette(routes=[Mount("/grün", routes=api.routes)])
    client = TestClient(app, headers={"authorization": f"Bearer {TOKEN}"})

    response = client.post(f"/grün{PREFIX}/silences", json={"matchers": [K1], "duration": 60})

    location = response.headers["location"]
    assert location.startswith(f"/gr%C3%BCn{PREFIX}/silences/")
    assert client.get(location).json() == response.json()
    assert api.engine.controls.silences[0].starts_at == NOON
