"""Invalid requests, HEAD requests and failures of the store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message

from tokenpulse_mw.alerts.store import AlertRecord, MemoryAlertStore, StoreError

from ...support.asgi import Answer, drive, http_scope
from .api import PREFIX, TOKEN, Api, trouble

HEADERS = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]
JSON = {"content-type": "application/json"}


async def post(*chunks: Message) -> Answer:
    """Return the response of `/test` to a body in chunks."""
    scope = http_scope(f"{PREFIX}/test", method="POST", headers=HEADERS)
    return await drive(Api().app, scope, received=chunks)


def test_error_is_problem_details_and_not_cached() -> None:
    """An error has the members of RFC 9457, and `cache-control: no-store`."""
    response = Api().request("GET", "/nothing")

    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "Not found: no alert has this id.",
    }


@pytest.mark.parametrize(
    ("path", "allow"), [("/thresholds", "GET, HEAD, PUT, PATCH"), ("/test", "POST")]
)
def test_other_method_gets_405_with_allow(path: str, allow: str) -> None:
    """A 405 lists the allowed methods in `Allow` and in the detail."""
    response = Api().request("TRACE", path)

    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.json()["detail"] == f"Method not allowed. Allowed methods: {allow}."


def test_unknown_path_names_the_openapi_document() -> None:
    """The 404 of an unknown path names the document that lists all paths."""
    response = Api().request("GET", "/no/such/path")

    assert (response.status_code, response.json()["detail"]) == (
        404,
        "Not found: openapi.json lists all paths.",
    )


@pytest.mark.parametrize("path", ["", "/thresholds", "/rules", "/openapi.json"])
def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    """A HEAD request gets the headers of a GET request, without a body."""
    api = Api()

    get, head = api.request("GET", path), api.request("HEAD", path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == get.headers
    assert get.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "json", ""]
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/test"), ("POST", "/a1/unack"), ("DELETE", "/silences/s1")]
)
def test_other_content_type_gets_415(method: str, path: str, content_type: str) -> None:
    """Types that a form can send get 415, also from operations without a body."""
    response = Api().request(method, path, headers={"content-type": content_type}, content=b"{}")

    assert (response.status_code, response.headers["accept"]) == (415, "application/json")


@pytest.mark.anyio
async def test_body_without_content_type_gets_415() -> None:
    """A body without a content type gets 415, because a browser can send one."""
    scope = http_scope(f"{PREFIX}/a1/ack", method="POST", headers=HEADERS[:1])

    response = await drive(Api().app, scope, received=[{"type": "http.request", "body": b"{}"}])

    assert response.status == 415


def test_content_type_with_parameters_and_capitals_is_accepted() -> None:
    """The content type may have parameters, and is case-insensitive."""
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert Api().request("POST", "/evaluate", headers=headers, content=b"{}").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b'{"sink": NaN}', b"\xff", b"[" * 30_000])
def test_invalid_json_is_rejected(body: bytes) -> None:
    """Malformed or deeply nested JSON, and NaN, are rejected with problem details."""
    response = Api().request("POST", "/test", headers=JSON, content=body)

    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_deeply_nested_value_gets_400() -> None:
    """A nesting that would exhaust the stack gets 400."""
    body = b'{"thresholds": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"

    assert Api().request("POST", "/evaluate", headers=JSON, content=body).status_code == 400


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ([], []),
        ({}, ["sink"]),
        ({"sink": 1}, ["sink"]),
        ({"sink": "log", "other": 1}, ["other"]),
    ],
)
def test_error_has_the_location_of_the_invalid_value(body: Any, loc: list[str]) -> None:
    """An error has the location of an invalid, missing or unknown field."""
    assert Api().error("POST", "/test", json=body) == (422, [loc])


@pytest.mark.anyio
async def test_body_over_the_limit_gets_413_before_it_is_complete() -> None:
    """A body that is too large gets 413, and the rest of it is not read."""
    chunk = {"type": "http.request", "body": b" " * 40_000, "more_body": True}

    response = await post(chunk, chunk, {"type": "http.request", "body": b"not read"})

    assert response.status == 413


@pytest.mark.anyio
async def test_incomplete_body_gets_400() -> None:
    """A request whose client disconnects within the body gets 400."""
    response = await post({"type": "http.request", "body": b'{"sink":', "more_body": True})

    assert (response.status, response.error) == (400, None)


@pytest.mark.parametrize(
    ("query", "name"),
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
def test_invalid_parameter_is_rejected(query: str, name: str) -> None:
    """Invalid, repeated and unknown query parameters get 422."""
    assert Api().error("GET", f"/deliveries/dead?{query}") == (422, [["query", name]])


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
def test_error_quotes_at_most_100_characters(method: str, path: str, options: Any) -> None:
    """An error truncates values of the request."""
    response = Api().request(method, path, **options)

    assert response.status_code in (404, 422)
    assert "x" * 101 not in response.text


def test_error_lists_at_most_100_invalid_values() -> None:
    """The number of listed errors is limited."""
    body = {"thresholds": {f"x{number}": 1 for number in range(1000)}}

    response = Api().request("POST", "/evaluate", json=body)

    assert len(response.json()["errors"]) == 100


class FailingStore(MemoryAlertStore):
    """Store that cannot read alerts."""

    async def alert(self, alert_id: str) -> AlertRecord | None:
        raise StoreError("no route to db.internal")


def test_failure_of_the_store_gets_503_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the error of the store, and the response does not."""
    response = Api(store=FailingStore()).request("GET", "/a1")

    assert response.status_code == 503
    assert "db.internal" not in response.text
    assert "no route to db.internal" in caplog.text


def test_lone_surrogate_in_a_name_is_replaced() -> None:
    """The response is valid UTF-8 even if the name of a tenant has a lone surrogate."""
    api = Api(trouble("k\ud800"))
    api.evaluate()

    (alert,) = api.get()["alerts"]

    assert alert["fingerprint"] == "trouble:key:k?"
    assert json.dumps(alert, ensure_ascii=False).encode()
