"""The other endpoints of the page, and what all have in common."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from tokenpulse_mw.dashboard import schemas
from tokenpulse_mw.web.auth import Person

from .board import Board, exchange
from .test_state import tenant

pytestmark = pytest.mark.anyio

PATHS = ("/state", "/series", "/routes", "/inflight", "/tenants", "/openapi.json", "/unknown")


@pytest.mark.parametrize("path", PATHS)
async def test_request_without_a_token_is_401(path: str) -> None:
    """No datum is public, and no path is known without a token."""
    board = Board()
    del board.client.headers["authorization"]

    for method in ("GET", "POST"):
        response = board.client.request(method, f"/admin/live{path}")
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", PATHS[:-1])
async def test_other_methods_are_405(path: str) -> None:
    """GET changes nothing, and nothing else is served."""
    board = Board()

    assert board.client.head(f"/admin/live{path}").status_code == 200
    response = board.client.post(f"/admin/live{path}")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


async def test_unknown_path_is_404() -> None:
    """So that no token reaches a catch-all route of the application."""
    assert Board().client.get("/admin/live/unknown").status_code == 404


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("/series?by=tenant", "by"),
        ("/series?range=60", "range"),
        ("/series?limit=51", "limit"),
        ("/routes?sort=name", "sort"),
        ("/routes?limit=0", "limit"),
        ("/inflight?limit=1001", "limit"),
        ("/tenants?cursor=x", "cursor"),
        ("/tenants?cursor=-1:a", "cursor"),
        ("/tenants?cursor=1234567890123456789:a", "cursor"),
        ("/tenants?page=2", "page"),
        ("/state?by=x", "by"),
    ],
)
async def test_invalid_parameter_is_422(query: str, name: str) -> None:
    """The response names the parameter."""
    response = Board().client.get(f"/admin/live{query}")

    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["query", name]]


@pytest.mark.parametrize(
    ("allowed", "me"),
    [
        (True, {"name": "", "can": ["read", "ack", "limits", "thresholds"]}),
        ("ada", {"name": "ada", "can": ["read", "ack", "limits", "thresholds"]}),
        (Person("bob", {"ack", "read"}), {"name": "bob", "can": ["read", "ack"]}),
    ],
)
async def test_state_names_the_caller_and_its_rights(allowed: Any, me: Any) -> None:
    """A caller without rights of its own has all."""
    routes = Board().dashboard.routes(lambda request: allowed)
    client = TestClient(Starlette(routes=routes))

    assert client.get("/admin/live/state").json()["me"] == me


async def test_caller_without_the_right_to_read_is_403() -> None:
    """The right is checked before anything else of the request."""
    routes = Board().dashboard.routes(lambda request: Person("eve", {"ack"}))
    client = TestClient(Starlette(routes=routes))

    assert client.get("/admin/live/state?x=y").status_code == 403


async def test_series_has_counts_and_quantiles_of_each_step() -> None:
    """Lists have one length, the oldest step first; a gap is null."""
    board = Board(options={"slots": 240})
    await board.step()
    await board.step(exchange(time_to_first_token=0.5), exchange(status=429, fault="policy"))
    board.metrics.on_open()
    await board.step(exchange(provider="gemini", status=500))

    body = board.get("/series?range=900")
    series = body["series"]
    assert (body["step_seconds"], body["names"]) == (15, ["claude", "gemini"])
    assert (body["from"], body["to"]) == ("2027-01-15T07:45:45Z", "2027-01-15T08:00:45Z")
    assert {len(values) for name in series for values in _lists(series[name])} == {60}
    assert [values[-3:] for values in series["requests"]] == [[None, 2, 0], [None, 0, 1]]
    assert series["limited"][0][-3:] == [None, 1, 0]
    assert series["errors"][1][-3:] == [None, 0, 1]
    assert series["input_tokens"][0][-3:] == [None, 100, 0]
    assert series["cost_usd"][0][-3:] == [None, None, None]
    assert series["duration_p95"][0][-3:] == [None, pytest.approx(0.955), None]
    assert series["ttft_p50"][0][-2] == pytest.approx(0.55)
    assert series["ttfb_p95"][0][-2] == pytest.approx(0.955)
    assert series["in_flight"][-3:] == [None, 0, 1]


def _lists(values: list[Any]) -> list[Any]:
    return values if isinstance(values[0], list) else [values]


async def test_series_beyond_the_limit_are_summed() -> None:
    """Their quantiles are not known."""
    board = Board(options={"max_names": 2})
    await board.step()
    await board.step(
        *[exchange(route="/a")] * 3, exchange(route="/b"), exchange(route="/c"), exchange()
    )

    body = board.get("/series?by=route&range=900&limit=1")
    assert body["names"] == ["/a", "__others__"]
    assert [values[-1] for values in body["series"]["requests"]] == [3, 3]
    assert [values[-1] for values in body["series"]["duration_p95"]] == [
        pytest.approx(0.955),
        None,
    ]
    assert [values[-1] for values in body["series"]["input_tokens"]] == [None, None]
    assert board.get("/state")["rates"]["requests_per_second"] == pytest.approx(0.4)


async def test_series_before_the_first_sample_is_a_gap() -> None:
    """It has the range that was requested."""
    body = Board().get("/series?by=model&range=1800")

    assert body["names"] == []
    assert body["series"]["in_flight"] == [None] * 120


async def test_marks_are_those_of_the_range() -> None:
    """Alerts that fire or are resolved, and the start, are marked; other changes are not."""
    board = Board()
    start = board.clocks.wall
    async with board.dashboard.running():
        pass
    board.dashboard.on_alert("fired", "Provider down", start - 1000)
    board.dashboard.on_alert("reminded", "Provider down", start)
    board.dashboard.on_alert("resolved", "Provider down", start)

    kinds = [mark["kind"] for mark in board.get("/series?range=900")["marks"]]
    assert kinds == ["started", "resolved"]
    assert [mark["kind"] for mark in board.get("/series")["marks"]] == [
        "fired",
        "started",
        "resolved",
    ]


async def test_routes_are_sorted_and_counted() -> None:
    """Routes that are not listed are only counted."""
    board = Board(options={"max_names": 2})
    await board.step()
    await board.step(
        *[exchange(route="/a")] * 3,
        exchange(route="/b", status=500),
        exchange(route="/c", status=429),
    )

    body = board.get("/routes")
    assert [route["route"] for route in body["routes"]] == ["/a", "/b"]
    assert body["routes"][0] == {
        "route": "/a",
        "requests_per_minute": 12,
        "error_share": 0,
        "p50_seconds": pytest.approx(0.55),
        "p95_seconds": pytest.approx(0.955),
        "limited_per_minute": 0,
    }
    assert body["others"] == 1
    errors = board.get("/routes?sort=errors&limit=1")
    assert ([route["route"] for route in errors["routes"]], errors["others"]) == (["/b"], 2)


def request(number: int, age: float) -> schemas.Request:
    """Return a request in progress."""
    return schemas.Request(
        id=str(number),
        age_seconds=age,
        idle_seconds=0.0,
        route="/chat",
        provider="claude",
        model=None,
        tenant="acme",
        tenant_name=None,
        credential=None,
        credential_group=None,
        first_byte=False,
        output_tokens=None,
        stalled=False,
    )


async def test_requests_in_progress_are_listed_oldest_first() -> None:
    """Their ids are unique over all processes."""
    board = Board(requests=[request(1, 5.0), request(2, 9.0)])
    board.facts.in_flight = schemas.InFlight(2, 9.0, 0)

    body = board.get("/inflight")
    instance = board.get("/state")["instance"]["id"]
    assert body["count"] == 2
    assert [item["id"] for item in body["requests"]] == [f"{instance}-2", f"{instance}-1"]


async def test_tenants_are_paged_and_found() -> None:
    """All pages together have each tenant once, those with most requests first."""
    board = Board(
        tenants=[tenant("a", 1), tenant("b", 3), tenant("c:d", 1), tenant("e", 2), tenant("é", 1)]
    )
    pages = list[list[str]]()
    cursor = ""
    while cursor is not None:
        query = f"&cursor={cursor}" if cursor else ""
        body = board.get(f"/tenants?limit=2{query}")
        pages.append([item["id"] for item in body["tenants"]])
        cursor = body["next"]

    assert pages == [["b", "e"], ["a", "c:d"], ["é"]]
    assert body["date"] == "2027-01-15"
    assert [item["id"] for item in board.get("/tenants?q=C:D")["tenants"]] == ["c:d"]
    assert [item["id"] for item in board.get("/tenants?q=%C3%89")["tenants"]] == ["é"]


async def test_thousands_of_tenants_are_searched_in_steps() -> None:
    """The last one is found."""
    board = Board(tenants=[tenant(f"t{number}") for number in range(4500)])

    assert len(board.get("/tenants?q=t4499")["tenants"]) == 1


async def test_tenants_without_usage_are_empty() -> None:
    """Without alerts, usage is not counted."""
    assert Board(counts_tenants=False).get("/tenants")["tenants"] == []


async def test_names_with_lone_surrogates_are_replaced() -> None:
    """A name that is no UTF-8 does not fail the response."""
    board = Board(tenants=[tenant("a\ud800b")])

    assert board.get("/tenants")["tenants"][0]["id"] == "a?b"
    board.requests = [request(1, 1.0)]
    board.requests[0].model = "\ud800"
    assert board.get("/inflight")["requests"][0]["model"] == "?"


async def test_document_below_a_mount_has_its_root_path() -> None:
    """The server URL of the document is the root path."""
    board = Board()
    app = Starlette(routes=[Mount("/gw", board.client.app)])

    document = (
        TestClient(app, headers=dict(board.client.headers))
        .get("/gw/admin/live/openapi.json")
        .json()
    )

    assert document["servers"] == [{"url": "/gw"}]
    assert set(document["paths"]) == {f"/admin/live{path}" for path in PATHS[:5]}
