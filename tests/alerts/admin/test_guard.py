"""Who is let in to the admin API."""

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

from tokenpulse_mw import AlertEngine, Exchange, ExchangeMiddleware
from tokenpulse_mw.alerts.admin import alert_routes

from ...support.asgi import drive, http_scope
from .gateway import GUARD, PREFIX, TOKEN, Api, trouble

ROUTES = alert_routes(AlertEngine(), authorize=GUARD)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_no_route_answers_without_authorization(route: Route, method: str) -> None:
    """It is asked for first: neither a method nor a body tells anything of what there is."""
    api = Api()
    path = route.path.removeprefix(PREFIX)

    answer = api.ask(method, path, headers={"authorization": "Bearer other"}, content=b"{")

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("authorize", [None, "s3cret", True])
def test_the_routes_are_not_made_without_authorization(authorize: Any) -> None:
    """Nobody forgets it: the error says what to give."""
    with pytest.raises(ValueError, match=r"bearer\(token\) of tokenpulse_mw"):
        alert_routes(AlertEngine(), authorize=authorize)


async def later(request: Request) -> str:
    """Knows who asks, after a while."""
    return "ada"


@pytest.mark.parametrize(
    ("authorize", "status"),
    [
        (lambda request: True, 200),
        (lambda request: "ada", 200),
        (later, 200),
        (lambda request: False, 401),
        (lambda request: None, 401),
        (lambda request: "", 401),
    ],
    ids=["true", "a name", "a name, later", "false", "none", "no name"],
)
def test_whoever_is_true_or_has_a_name_is_let_in(authorize: Any, status: int) -> None:
    """A function of one's own may be async, and says who asks."""
    assert Api(authorize=authorize).ask("GET").status_code == status


@pytest.mark.parametrize("given", [1, b"ada", object(), ["ada"]])
def test_anything_else_lets_nobody_in(given: object, caplog: pytest.LogCaptureFixture) -> None:
    """What is true by accident is no permission, and whoever wrote it is told."""
    api = Api(authorize=lambda request: given)

    assert api.ask("GET").status_code == 401
    assert "authorize must return True, a name or False" in caplog.text


def test_an_authorization_may_refuse_in_its_own_words() -> None:
    """It may know the client, who has asked too often."""

    def authorize(request: Request) -> bool:
        raise HTTPException(429, "not so fast", headers={"retry-after": "5"})

    answer = Api(authorize=authorize).ask("GET")

    assert (answer.status_code, answer.text) == (429, "not so fast")
    assert answer.headers["retry-after"] == "5"


def test_a_failing_authorization_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """The answer tells nothing of the failure, the log does."""

    def authorize(request: Request) -> bool:
        raise KeyError("s3cret")

    answer = Api(authorize=authorize).ask("GET")

    assert answer.status_code == 403
    assert "s3cret" not in answer.text
    assert [each.levelno for each in caplog.records if each.exc_info] == [logging.ERROR]


@pytest.mark.parametrize(
    ("authorize", "body", "by"),
    [
        (lambda request: "ada\n" + "x" * 200, {}, "ada " + "x" * 93 + "..."),
        (lambda request: "ada", {"by": "eve"}, "ada"),
        (lambda request: True, {"by": "grace"}, "grace"),
        (lambda request: True, {}, "unknown"),
    ],
    ids=["a long name", "two names", "a name of one's own", "no name"],
)
def test_who_asks_is_kept_with_what_they_do(authorize: Any, body: Any, by: str) -> None:
    """A name that the authorization knows cannot be chosen by the request."""
    api = Api(trouble(), authorize=authorize)
    api.round()

    answer = api.ask("POST", f"/{api.alert_id()}/ack", json=body)

    assert answer.json()["ack"]["by"] == by


@pytest.mark.anyio
@pytest.mark.parametrize(("token", "counted"), [(TOKEN, 0), ("other", 1)])
async def test_only_refused_requests_are_measured(token: str, counted: int) -> None:
    """People on call are no traffic; somebody who tries tokens can be seen."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(Api().app, observers=[seen.append])
    headers = [(b"authorization", b"Bearer " + token.encode())]

    await drive(app, http_scope(PREFIX, headers=headers))

    assert [each.route for each in seen] == [PREFIX] * counted


@pytest.mark.parametrize("path", ["/", "/thresholds/", "/foo/bar", "/foo/bar/", "/a1/ack/b", "//"])
@pytest.mark.parametrize(("token", "status"), [(TOKEN, 404), ("other", 401)])
def test_no_token_comes_to_a_catch_all_of_the_application(
    path: str, token: str, status: int
) -> None:
    """Below the prefix there is nobody but us, and only who is let in learns what there is not."""
    seen: list[str] = []

    def proxy(request: Request) -> Response:
        seen.append(request.headers["authorization"])
        return Response()

    app = Starlette(routes=[*ROUTES, Route("/{path:path}", proxy, methods=["GET", "POST"])])
    client = TestClient(app, headers={"authorization": f"Bearer {token}"})

    answers = [client.request(method, PREFIX + path) for method in ("GET", "POST", "BREW")]

    assert [each.status_code for each in answers] == [status] * 3
    assert {each.headers["content-type"] for each in answers} == {"application/problem+json"}
    assert client.get(f"{PREFIX}s").status_code == 200
    assert len(seen) == 1


@pytest.mark.parametrize("prefix", ["", "admin", "/admin/", "/{tenant}/alerts"])
def test_a_prefix_that_is_no_path_is_refused(prefix: str) -> None:
    """The error says what one looks like."""
    with pytest.raises(ValueError, match="such as /admin/alerts"):
        alert_routes(AlertEngine(), authorize=GUARD, prefix=prefix)
