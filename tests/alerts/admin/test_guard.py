"""Authorization of the admin API."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tokenpulse_mw import AlertEngine, Exchange, ExchangeMiddleware, Person
from tokenpulse_mw.alerts.admin import alert_routes
from tokenpulse_mw.alerts.admin.routes import OPERATIONS
from tokenpulse_mw.web.auth import RIGHTS
from tokenpulse_mw.web.operation import Operation

from ...support.asgi import drive, http_scope
from .api import AUTHORIZE, PREFIX, TOKEN, Api, trouble

ROUTES = alert_routes(AlertEngine(), authorize=AUTHORIZE)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_every_route_without_authorization_gets_401(route: Route, method: str) -> None:
    """Authorization is checked before the method and the body."""
    api = Api()
    path = route.path.removeprefix(PREFIX)

    response = api.request(method, path, headers={"authorization": "Bearer other"}, content=b"{")

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("authorize", [None, "s3cret", True])
def test_authorize_that_is_not_callable_is_rejected(authorize: Any) -> None:
    """The routes require an `authorize` function, and the error names a ready one."""
    with pytest.raises(ValueError, match=r"bearer\(token\) of tokenpulse_mw"):
        alert_routes(AlertEngine(), authorize=authorize)


async def authorize_async(request: Request) -> str:
    """Return a name."""
    return "ada"


@pytest.mark.parametrize(
    ("authorize", "status"),
    [
        (lambda request: True, 200),
        (lambda request: "ada", 200),
        (authorize_async, 200),
        (lambda request: False, 401),
        (lambda request: None, 401),
        (lambda request: "", 401),
    ],
    ids=["true", "name", "async-name", "false", "none", "empty-name"],
)
def test_true_or_a_name_admits_the_request(authorize: Any, status: int) -> None:
    """A request is admitted if `authorize`, async or not, returns True or a name."""
    assert Api(authorize=authorize).request("GET").status_code == status


@pytest.mark.parametrize("result", [1, b"ada", object(), ["ada"]])
def test_other_result_gets_401_and_is_logged(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A result of another type does not admit the request, even if it is truthy."""
    api = Api(authorize=lambda request: result)

    assert api.request("GET").status_code == 401
    assert "authorize must return True, a name, a Person or False" in caplog.text


def test_http_exception_of_authorize_is_the_response() -> None:
    """An HTTPException of `authorize` is sent as problem details."""

    def authorize(request: Request) -> bool:
        raise HTTPException(429, "not so fast", headers={"retry-after": "5"})

    response = Api(authorize=authorize).request("GET")

    assert (response.status_code, response.json()["detail"]) == (429, "not so fast")
    assert response.headers["retry-after"] == "5"


def test_exception_of_authorize_gets_503_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the exception of `authorize`, and the response does not."""

    def authorize(request: Request) -> bool:
        raise KeyError("s3cret")

    response = Api(authorize=authorize).request("GET")

    assert response.status_code == 503
    assert "s3cret" not in response.text
    assert [record.levelno for record in caplog.records if record.exc_info] == [logging.ERROR]


@pytest.mark.parametrize(
    ("authorize", "body", "author"),
    [
        (lambda request: "ada\n" + "x" * 200, {}, "ada " + "x" * 93 + "..."),
        (lambda request: "ada", {"by": "eve"}, "ada"),
        (lambda request: True, {"by": "grace"}, "grace"),
        (lambda request: True, {}, "unknown"),
    ],
    ids=["long-name", "two-names", "name-of-the-body", "no-name"],
)
def test_author_of_a_change_is_the_authorized_name(authorize: Any, body: Any, author: str) -> None:
    """A change is stored with the name of `authorize`, which the body cannot replace."""
    api = Api(trouble(), authorize=authorize)
    api.evaluate()

    response = api.request("POST", f"/{api.alert_id()}/ack", json=body)

    assert response.json()["ack"]["by"] == author


@pytest.mark.anyio
@pytest.mark.parametrize(("token", "count"), [(TOKEN, 0), ("other", 1)])
async def test_only_unauthorized_requests_are_measured(token: str, count: int) -> None:
    """Authorized requests are excluded from metrics, so attempts to guess a token are visible."""
    exchanges: list[Exchange] = []
    app = ExchangeMiddleware(Api().app, observers=[exchanges.append])
    headers = [(b"authorization", b"Bearer " + token.encode())]

    await drive(app, http_scope(PREFIX, headers=headers))

    assert [exchange.route for exchange in exchanges] == [PREFIX] * count


@pytest.mark.parametrize("path", ["/", "/thresholds/", "/foo/bar", "/foo/bar/", "/a1/ack/b", "//"])
@pytest.mark.parametrize(("token", "status"), [(TOKEN, 404), ("other", 401)])
def test_unknown_path_below_the_prefix_does_not_reach_the_application(
    path: str, token: str, status: int
) -> None:
    """Unknown paths get 404 with authorization and 401 without, not a catch-all route."""
    received: list[str] = []

    def proxy(request: Request) -> Response:
        received.append(request.headers["authorization"])
        return Response()

    app = Starlette(routes=[*ROUTES, Route("/{path:path}", proxy, methods=["GET", "POST"])])
    client = TestClient(app, headers={"authorization": f"Bearer {token}"})

    responses = [client.request(method, PREFIX + path) for method in ("GET", "POST", "BREW")]

    assert [response.status_code for response in responses] == [status] * 3
    content_types = {response.headers["content-type"] for response in responses}
    assert content_types == {"application/problem+json"}
    assert client.get(f"{PREFIX}s").status_code == 200
    assert len(received) == 1


@pytest.mark.parametrize("prefix", ["", "admin", "/admin/", "/{tenant}/alerts"])
def test_invalid_prefix_is_rejected(prefix: str) -> None:
    """The error of an invalid prefix has a valid one."""
    with pytest.raises(ValueError, match="such as /admin/alerts"):
        alert_routes(AlertEngine(), authorize=AUTHORIZE, prefix=prefix)


RIGHTS_OF = {
    "POST /{id}/ack": "ack",
    "POST /{id}/unack": "ack",
    "POST /silences": "ack",
    "DELETE /silences/{id}": "ack",
    "POST /test": "thresholds",
    "PUT /thresholds": "thresholds",
    "PATCH /thresholds": "thresholds",
    "POST /evaluate": "read",
}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_each_operation_needs_one_right(operation: Operation) -> None:
    """A caller with all other rights gets 403, and one with only this right does not."""
    right: Any = RIGHTS_OF.get(f"{operation.method} {operation.path}", "read")
    statuses = [
        Api(authorize=lambda request, can=can: Person("ada", can=can))
        .request(operation.method, operation.path)
        .status_code
        for can in (RIGHTS - {right}, {right})
    ]

    assert statuses[0] == 403
    assert statuses[1] != 403
