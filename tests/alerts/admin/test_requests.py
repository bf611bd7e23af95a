"""Requests that cannot be done as they came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message

from tokenpulse_mw.alerts.store import AlertRecord, MemoryAlertStore, StoreError

from ...support.asgi import Answer, drive, http_scope
from .gateway import PREFIX, TOKEN, Api, trouble

HEADERS = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]


async def post(*received: Message) -> Answer:
    """What `/test` answers to a body that comes in pieces."""
    scope = http_scope(f"{PREFIX}/test", method="POST", headers=HEADERS)
    return await drive(Api().app, scope, received=received)


def test_a_refusal_says_what_happened_as_problem_details() -> None:
    """Programs read it (RFC 9457), and no cache keeps it."""
    answer = Api().ask("GET", "/nothing")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "Not found: no alert has this id.",
    }


@pytest.mark.parametrize(
    ("path", "allow"), [("/thresholds", "GET, PUT, PATCH, HEAD"), ("/test", "POST")]
)
def test_another_method_is_told_which_there_are(path: str, allow: str) -> None:
    """405 comes with Allow, and only to those who are let in."""
    answer = Api().ask("TRACE", path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["", "/thresholds", "/rules", "/openapi.json"])
def test_head_is_answered_like_get_without_a_body(path: str) -> None:
    """Whoever only wants to know whether it is there need not read it."""
    api = Api()

    got, headed = api.ask("GET", path), api.ask("HEAD", path)

    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers == got.headers
    assert got.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "json", ""])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/test"), ("POST", "/a1/unack"), ("DELETE", "/silences/s1")]
)
def test_only_json_is_taken(method: str, path: str, kind: str) -> None:
    """What a form of another site can post is refused, even where there is nothing to read."""
    answer = Api().ask(method, path, headers={"content-type": kind}, content=b"{}")

    assert (answer.status_code, answer.headers["accept"]) == (415, "application/json")


@pytest.mark.anyio
async def test_a_body_of_no_type_is_no_json() -> None:
    """A browser may send text without saying what it is."""
    scope = http_scope(f"{PREFIX}/a1/ack", method="POST", headers=HEADERS[:1])

    answer = await drive(Api().app, scope, received=[{"type": "http.request", "body": b"{}"}])

    assert answer.status == 415


def test_a_type_may_have_parameters_and_capitals() -> None:
    """As clients write it."""
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert Api().ask("POST", "/evaluate", headers=headers, content=b"{}").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b'{"sink": NaN}', b"\xff", b"[" * 30_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    """NaN is none either, and no depth of it breaks anything."""
    headers = {"content-type": "application/json"}

    answer = Api().ask("POST", "/test", headers=headers, content=body)

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_values_that_are_too_deep_are_refused() -> None:
    """What would exhaust the stack is no JSON of ours."""
    body = b'{"thresholds": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    headers = {"content-type": "application/json"}

    assert Api().ask("POST", "/evaluate", headers=headers, content=body).status_code == 400


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ([], []),
        ({}, ["sink"]),
        ({"sink": 1}, ["sink"]),
        ({"sink": "log", "other": 1}, ["other"]),
    ],
)
def test_a_wrong_value_is_said_to_be_where_it_stands(body: Any, loc: list[str]) -> None:
    """Also one that is missing, and one that is too much."""
    assert Api().refused("POST", "/test", json=body) == (422, [loc])


@pytest.mark.anyio
async def test_a_large_body_is_never_held() -> None:
    """Of an endless body no more is read than what may be."""
    piece = {"type": "http.request", "body": b" " * 40_000, "more_body": True}

    answer = await post(piece, piece, {"type": "http.request", "body": b"never asked for"})

    assert answer.status == 413


@pytest.mark.anyio
async def test_half_a_body_is_not_done() -> None:
    """A client that leaves half-way has asked for nothing."""
    answer = await post({"type": "http.request", "body": b'{"sink":', "more_body": True})

    assert (answer.status, answer.error) == (400, None)


@pytest.mark.parametrize(
    ("query", "loc"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("Limit=1", "Limit"),
    ],
)
def test_a_wrong_parameter_is_refused(query: str, loc: str) -> None:
    """Neither a wrong number nor a misspelled name is passed over."""
    answer = Api().refused("GET", f"/deliveries/dead?{query}")

    assert answer == (422, [["query", loc]])


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "?state=" + "x" * 500, {}),
        ("GET", "?" + "x" * 500 + "=1", {}),
        ("POST", "/test", {"json": {"sink": "x" * 500}}),
        ("POST", "/test", {"json": {"x" * 500: 1, "sink": "log"}}),
        ("POST", "/evaluate", {"json": {"thresholds": {"x" * 500: 1}}}),
        ("POST", "/evaluate", {"json": {"thresholds": {"error_rate": "x" * 500}}}),
        ("POST", "/silences", {"json": {"matchers": [{"name": "x" * 500, "value": ""}]}}),
        (
            "POST",
            "/silences",
            {
                "json": {
                    "matchers": [{"name": "metric", "value": "(" + "x" * 400, "is_regex": True}]
                }
            },
        ),
        ("GET", "/" + "x" * 500, {}),
    ],
)
def test_little_of_a_request_is_repeated(method: str, path: str, options: Any) -> None:
    """What somebody sends is not carried on to logs and screens."""
    answer = Api().ask(method, path, **options)

    assert answer.status_code in (404, 422)
    assert "x" * 101 not in answer.text


def test_a_thousand_mistakes_are_told_in_part() -> None:
    """The answer does not grow with what is wrong."""
    wrong = {"thresholds": {f"x{number}": 1 for number in range(1000)}}

    answer = Api().ask("POST", "/evaluate", json=wrong)

    assert len(answer.json()["errors"]) == 100


class Broken(MemoryAlertStore):
    """A store whose database is gone."""

    async def alert(self, alert_id: str) -> AlertRecord | None:
        raise StoreError("no route to db.internal")


def test_a_store_that_fails_is_not_the_callers_doing(caplog: pytest.LogCaptureFixture) -> None:
    """503 without details, which are in the log."""
    answer = Api(store=Broken()).ask("GET", "/a1")

    assert answer.status_code == 503
    assert "db.internal" not in answer.text
    assert "no route to db.internal" in caplog.text


def test_names_that_are_no_text_are_shown_all_the_same() -> None:
    """A tenant may have half a surrogate pair in its name."""
    api = Api(trouble("k\ud800"))
    api.round()

    (alert,) = api.get()["alerts"]

    assert alert["fingerprint"] == "trouble:key:k?"
    assert json.dumps(alert, ensure_ascii=False).encode()
