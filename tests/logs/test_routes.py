"""Endpoint of the settings that can be changed at run time."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from tokenpulse_mw import Exchange, ExchangeMiddleware, Person
from tokenpulse_mw.logs import log_level, set_log_level, settings_routes
from tokenpulse_mw.web.auth import bearer
from tokenpulse_mw.web.problems import ProblemError

from ..support.asgi import Answer, drive, http_scope

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logging_as_it_was")]

TOKEN = (b"authorization", b"Bearer s3cret")
GUARD = bearer("s3cret")
JSON = (b"content-type", b"application/json")


@pytest.fixture(autouse=True)
def at_info(logging_as_it_was: None) -> None:
    """Set the level to INFO."""
    set_log_level("INFO")


async def request_settings(
    method: str,
    body: bytes = b"",
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (TOKEN, JSON),
    exchanges: list[Exchange] | None = None,
    received: Iterable[Message] | None = None,
    authorize: Callable[[Request], Any] = GUARD,
    keep: Callable[[str, str], Awaitable[None]] | None = None,
    **more: Any,
) -> Answer:
    """Return the response of `/admin/settings`; add the observed exchanges to `exchanges`."""
    routes = Starlette(routes=settings_routes(authorize=authorize, keep=keep))
    app = ExchangeMiddleware(routes, observers=[] if exchanges is None else [exchanges.append])
    messages = [{"type": "http.request", "body": body}] if received is None else received
    scope = http_scope("/admin/settings", method=method, headers=headers, **more)
    return await drive(app, scope, received=messages)


def body_with(level: object) -> bytes:
    """Return a body that sets `level`."""
    return json.dumps({"log_level": level}).encode()


async def test_get_returns_the_level() -> None:
    """The response must not be cached."""
    response = await request_settings("GET")

    assert (response.status, json.loads(response.body)) == (200, {"log_level": "INFO"})
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARN", "ERROR"])
async def test_put_changes_the_level(level: str) -> None:
    """The response has the new level, which applies at once."""
    response = await request_settings("PUT", body_with(level))

    assert (response.status, json.loads(response.body)) == (200, {"log_level": level})
    assert log_level() == level


@pytest.mark.parametrize(("level", "name"), [("debug", "DEBUG"), ("Warning", "WARN")])
async def test_level_is_case_insensitive(
    level: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The response and the log have the name of the level in upper case."""
    response = await request_settings("PUT", body_with(level))

    assert (response.status, json.loads(response.body)) == (200, {"log_level": name})
    assert caplog.messages == [f"log level changed: from=INFO to={name} by=192.0.2.1"]


@pytest.mark.parametrize(("before", "after"), [("ERROR", "DEBUG"), ("INFO", "ERROR")])
async def test_change_is_logged_at_the_lower_level(
    before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line is logged while the lower of both levels is set, without the token."""
    set_log_level(before)

    await request_settings("PUT", body_with(after))

    assert caplog.messages == [f"log level changed: from={before} to={after} by=192.0.2.1"]


async def test_change_is_logged_with_the_name_of_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The name that the guard returns is logged: the address may be that of a proxy."""

    async def authorize(request: Request) -> str:
        return "alice\n"  # a line break could forge a line

    await request_settings("PUT", body_with("DEBUG"), authorize=authorize)

    assert caplog.messages == ["log level changed: from=INFO to=DEBUG by=alice"]


async def test_level_is_kept_before_it_applies() -> None:
    """The function `keep` receives the level and its author."""
    kept: list[tuple[str, str, str]] = []

    async def keep(level: str, author: str) -> None:
        kept.append((level, author, log_level()))

    response = await request_settings("PUT", body_with("debug"), keep=keep)

    assert (response.status, kept) == (200, [("DEBUG", "192.0.2.1", "INFO")])
    assert log_level() == "DEBUG"


async def test_level_that_cannot_be_kept_does_not_apply() -> None:
    """The error of `keep` is the response."""

    async def keep(level: str, author: str) -> None:
        raise ProblemError(503, "The store failed.")

    response = await request_settings("PUT", body_with("DEBUG"), keep=keep)

    assert (response.status, log_level()) == (503, "INFO")


async def test_put_of_the_present_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The response is 200."""
    assert (await request_settings("PUT", body_with("INFO"))).status == 200
    assert caplog.messages == []


async def test_client_without_an_address_is_logged_as_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client on a Unix socket has no address."""
    await request_settings("PUT", body_with("DEBUG"), client=None)

    assert caplog.messages[0].endswith("by=unknown")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
@pytest.mark.parametrize("headers", [(), ((b"authorization", b"Bearer wrong"), JSON)])
async def test_request_without_a_valid_token_is_rejected(
    method: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    """The response is 401 with the authentication scheme, for every method."""
    response = await request_settings(method, body_with("DEBUG"), headers=headers)

    assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
    assert log_level() == "INFO"


async def test_guard_may_be_async() -> None:
    """A coroutine function can query a directory."""

    async def authorize(request: Request) -> bool:
        return request.method == "GET"

    assert (await request_settings("GET", authorize=authorize)).status == 200
    assert (await request_settings("PUT", body_with("DEBUG"), authorize=authorize)).status == 401


async def test_http_exception_of_the_guard_is_the_response() -> None:
    """A guard can raise 403 for a known client without permission."""

    def authorize(request: Request) -> bool:
        raise HTTPException(403)

    assert (await request_settings("GET", authorize=authorize)).status == 403


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (b'{"log_level": "LOUD"}', {("log_level",): "must be one of DEBUG, INFO, WARN, ERROR"}),
        (b'{"log_level": ["INFO"]}', {("log_level",): "Expected `str`, got `array`"}),
        (b'{"log_level": null}', {("log_level",): "Expected `str`, got `null`"}),
        (b"{}", {("log_level",): "is missing"}),
        (b'{"log_level": "DEBUG", "a/~b": 1}', {("a/~b",): "is not a known field"}),
        (b"[" * 60_000, {(): "Expected `object`, got `array`"}),
    ],
)
async def test_invalid_settings_change_nothing(
    body: bytes, errors: dict[tuple[str, ...], str]
) -> None:
    """The response names each invalid field."""
    response = await request_settings("PUT", body)
    problem = json.loads(response.body)

    assert (response.status, response.headers["content-type"]) == (422, "application/problem+json")
    assert {tuple(error["loc"]): error["msg"] for error in problem["errors"]} == errors
    assert log_level() == "INFO"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"log_level": "\xff"}'],
    ids=["empty", "truncated", "invalid UTF-8", "invalid UTF-8 in a string"],
)
async def test_body_that_is_not_json_is_rejected(body: bytes) -> None:
    """The response is 400."""
    response = await request_settings("PUT", body)

    assert (response.status, json.loads(response.body)["title"]) == (400, "Bad Request")


@pytest.mark.parametrize(
    "content_type", [b"", b"application/x-www-form-urlencoded", b"application/jsonx"]
)
async def test_other_content_type_is_rejected(content_type: bytes) -> None:
    """A form on another site cannot send JSON."""
    response = await request_settings(
        "PUT", body_with("DEBUG"), headers=(TOKEN, (b"content-type", content_type))
    )

    assert (response.status, response.headers["accept"]) == (415, "application/json")


async def test_content_type_may_have_parameters() -> None:
    """The content type is case-insensitive."""
    headers = (TOKEN, (b"content-type", b"Application/JSON; charset=utf-8"))

    assert (await request_settings("PUT", body_with("DEBUG"), headers=headers)).status == 200


async def test_body_is_read_up_to_its_limit() -> None:
    """The response is 413 after 64 KiB, and the rest is not read."""
    chunk: Message = {"type": "http.request", "body": b" " * 40_000, "more_body": True}
    messages = [chunk, chunk, chunk]
    consumed: list[Message] = []

    response = await request_settings("PUT", received=recording(messages, consumed))

    assert (response.status, len(consumed)) == (413, 2)


def recording(messages: list[Message], consumed: list[Message]) -> Iterator[Message]:
    """Yield the messages, and add each one that is read to `consumed`."""
    for message in messages:
        consumed.append(message)
        yield message


async def test_client_disconnect_changes_nothing() -> None:
    """A disconnect in the middle of the body raises no error."""
    first: Message = {"type": "http.request", "body": body_with("DEBUG"), "more_body": True}

    response = await request_settings("PUT", received=[first])

    assert (response.error, log_level()) == (None, "INFO")


async def test_options_returns_the_allowed_methods() -> None:
    """The response has no body."""
    response = await request_settings("OPTIONS")

    assert (response.status, response.body) == (204, b"")
    assert response.headers["allow"] == "GET, HEAD, PUT, OPTIONS"


async def test_authorized_request_is_not_observed() -> None:
    """Unauthorized requests are observed."""
    exchanges: list[Exchange] = []

    await request_settings("GET", exchanges=exchanges)
    await request_settings("PUT", body_with("DEBUG"), exchanges=exchanges)
    assert exchanges == []
    await request_settings("GET", headers=(), exchanges=exchanges)
    assert [exchange.status for exchange in exchanges] == [401]


@pytest.mark.parametrize("authorize", [None, "s3cret"])
async def test_authorize_is_required(authorize: Any) -> None:
    """The settings must not be public."""
    with pytest.raises(ValueError, match="authorize of settings_routes must be"):
        settings_routes(authorize=authorize)


async def test_change_applies_to_all_loggers(caplog: pytest.LogCaptureFixture) -> None:
    """A logger without a level writes DEBUG lines after the change."""
    caplog.handler.setLevel(logging.NOTSET)
    logger = logging.getLogger("anything")

    logger.debug("before")
    await request_settings("PUT", body_with("DEBUG"))
    logger.debug("after")

    assert caplog.messages[1:] == ["after"]


@pytest.mark.parametrize("headers", [(b"sec-fetch-site", b"cross-site"), (b"origin", b"null")])
@pytest.mark.parametrize("kind", [JSON, (b"content-type", b"text/plain"), None])
async def test_cross_site_put_is_rejected(
    headers: tuple[bytes, bytes], kind: tuple[bytes, bytes] | None
) -> None:
    """The level is unchanged, and the response has problem details."""
    request_headers = (TOKEN, headers) if kind is None else (TOKEN, headers, kind)

    response = await request_settings("PUT", body_with("DEBUG"), headers=request_headers)

    assert response.status == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert log_level() == "INFO"


@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE", "BREW"])
async def test_other_method_is_rejected_with_the_allowed_ones(method: str) -> None:
    """No token reaches a catch-all route of the application by another method."""
    response = await request_settings(method)

    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, PUT, OPTIONS")


async def test_change_needs_the_right_to_change_thresholds() -> None:
    """A caller with the right to read sees the level, and changes nothing."""

    def authorize(request: Request) -> Person:
        return Person("ada", can={"read"})

    read = await request_settings("GET", authorize=authorize)
    change = await request_settings("PUT", body_with("DEBUG"), authorize=authorize)

    assert (read.status, change.status, log_level()) == (200, 403, "INFO")
    assert "needs the right `thresholds`" in change.body.decode()
