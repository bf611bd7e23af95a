"""The settings that can be changed while the process runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from tokenpulse_mw import Exchange, ExchangeMiddleware
from tokenpulse_mw.logs import log_level, set_log_level, settings_routes
from tokenpulse_mw.web.auth import bearer

from ..support.asgi import Answer, drive, http_scope

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("logging_as_it_was")]


TOKEN = (b"authorization", b"Bearer s3cret")


GUARD = bearer("s3cret")


JSON = (b"content-type", b"application/json")


@pytest.fixture(autouse=True)
def at_info(logging_as_it_was: None) -> None:
    """Every test begins at INFO."""
    set_log_level("INFO")


async def ask(
    method: str,
    body: bytes = b"",
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (TOKEN, JSON),
    seen: list[Exchange] | None = None,
    received: Iterable[Message] | None = None,
    authorize: Callable[[Request], Any] = GUARD,
    **more: Any,
) -> Answer:
    """What `/admin/settings` answers; `seen` gets the exchanges that are measured."""
    routes = Starlette(routes=settings_routes(authorize=authorize))
    app = ExchangeMiddleware(routes, observers=[] if seen is None else [seen.append])
    coming = [{"type": "http.request", "body": body}] if received is None else received
    scope = http_scope("/admin/settings", method=method, headers=headers, **more)
    return await drive(app, scope, received=coming)


def put(level: object) -> bytes:
    """The body that asks for `level`."""
    return json.dumps({"log_level": level}).encode()


async def test_the_level_can_be_read() -> None:
    """It is that of now, and no cache keeps it."""
    answer = await ask("GET")

    assert (answer.status, json.loads(answer.body)) == (200, {"log_level": "INFO"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARN", "ERROR"])
async def test_the_level_can_be_changed(level: str) -> None:
    """It holds when the answer is there, which tells it."""
    answer = await ask("PUT", put(level))

    assert (answer.status, json.loads(answer.body)) == (200, {"log_level": level})
    assert log_level() == level


@pytest.mark.parametrize(("level", "name"), [("debug", "DEBUG"), ("Warning", "WARN")])
async def test_the_level_may_be_in_any_case(
    level: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer, and the log, have its name."""
    answer = await ask("PUT", put(level))

    assert (answer.status, json.loads(answer.body)) == (200, {"log_level": name})
    assert caplog.messages == [f"log level changed: from=INFO to={name} by=192.0.2.1"]


@pytest.mark.parametrize(("before", "after"), [("ERROR", "DEBUG"), ("INFO", "ERROR")])
async def test_a_change_is_logged(
    before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the more talkative level holds, so that it is seen; and no token is in it."""
    set_log_level(before)

    await ask("PUT", put(after))

    assert caplog.messages == [f"log level changed: from={before} to={after} by=192.0.2.1"]


async def test_a_change_is_logged_with_the_name_of_who_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the guard knows it, for the address may be that of a proxy."""

    async def authorize(request: Request) -> str:
        return "alice"

    await ask("PUT", put("DEBUG"), authorize=authorize)

    assert caplog.messages == ["log level changed: from=INFO to=DEBUG by=alice"]


async def test_what_changes_nothing_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """To ask for the level that there is, is fine."""
    assert (await ask("PUT", put("INFO"))).status == 200
    assert caplog.messages == []


async def test_a_client_may_have_no_address(caplog: pytest.LogCaptureFixture) -> None:
    """One that asks by a Unix socket has none."""
    await ask("PUT", put("DEBUG"), client=None)

    assert caplog.messages[0].endswith("by=a client without an address")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
@pytest.mark.parametrize("headers", [(), ((b"authorization", b"Bearer wrong"), JSON)])
async def test_who_has_no_token_is_not_let_in(
    method: str, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    """By no method; the answer says how to come in."""
    answer = await ask(method, put("DEBUG"), headers=headers)

    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert log_level() == "INFO"


async def test_the_guard_may_be_asynchronous() -> None:
    """It may have to ask somebody."""

    async def authorize(request: Request) -> bool:
        return request.method == "GET"

    assert (await ask("GET", authorize=authorize)).status == 200
    assert (await ask("PUT", put("DEBUG"), authorize=authorize)).status == 401


async def test_the_guard_may_refuse_in_its_own_words() -> None:
    """It may know the client, who is just not allowed."""

    def authorize(request: Request) -> bool:
        raise HTTPException(403)

    assert (await ask("GET", authorize=authorize)).status == 403


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
async def test_wrong_settings_change_nothing(
    body: bytes, errors: dict[tuple[str, ...], str]
) -> None:
    """The answer points at each field that is wrong."""
    answer = await ask("PUT", body)
    told = json.loads(answer.body)

    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert {tuple(each["loc"]): each["msg"] for each in told["errors"]} == errors
    assert log_level() == "INFO"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"log_level": "\xff"}'],
    ids=["none", "cut", "1", "2"],
)
async def test_what_is_no_json_is_told_so(body: bytes) -> None:
    """Whatever it is."""
    answer = await ask("PUT", body)

    assert (answer.status, json.loads(answer.body)["title"]) == (400, "Bad Request")


@pytest.mark.parametrize(
    "content_type", [b"", b"application/x-www-form-urlencoded", b"application/jsonx"]
)
async def test_only_json_is_taken(content_type: bytes) -> None:
    """So that no form on a foreign page can send it."""
    answer = await ask("PUT", put("DEBUG"), headers=(TOKEN, (b"content-type", content_type)))

    assert (answer.status, answer.headers["accept"]) == (415, "application/json")


async def test_a_content_type_may_have_parameters() -> None:
    """In any case."""
    headers = (TOKEN, (b"content-type", b"Application/JSON; charset=utf-8"))

    assert (await ask("PUT", put("DEBUG"), headers=headers)).status == 200


async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    """Nothing is kept of what comes after 64 KiB."""
    chunk: Message = {"type": "http.request", "body": b" " * 40_000, "more_body": True}
    coming = [chunk, chunk, chunk]
    taken: list[Message] = []

    answer = await ask("PUT", received=coming_one_by_one(coming, taken))

    assert (answer.status, len(taken)) == (413, 2)


def coming_one_by_one(coming: list[Message], taken: list[Message]) -> Iterator[Message]:
    """What comes; `taken` has those that somebody has asked for."""
    for message in coming:
        taken.append(message)
        yield message


async def test_a_client_may_leave_in_the_middle() -> None:
    """That is no error of ours, and changes nothing."""
    first: Message = {"type": "http.request", "body": put("DEBUG"), "more_body": True}

    answer = await ask("PUT", received=[first])

    assert (answer.error, log_level()) == (None, "INFO")


async def test_options_says_what_can_be_done() -> None:
    """With no body."""
    answer = await ask("OPTIONS")

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["allow"] == "GET, HEAD, PUT, OPTIONS"


async def test_other_methods_are_refused() -> None:
    """As Starlette does it."""
    assert (await ask("DELETE")).status == 405


async def test_what_is_let_in_is_not_measured() -> None:
    """It is no traffic; attempts to come in are, and can be seen."""
    seen: list[Exchange] = []

    await ask("GET", seen=seen)
    await ask("PUT", put("DEBUG"), seen=seen)
    assert seen == []
    await ask("GET", headers=(), seen=seen)
    assert [each.status for each in seen] == [401]


@pytest.mark.parametrize("authorize", [None, "s3cret"])
async def test_it_is_not_built_without_a_guard(authorize: Any) -> None:
    """These settings are not for everyone."""
    with pytest.raises(ValueError, match="authorize of settings_routes must be"):
        settings_routes(authorize=authorize)


async def test_every_logger_follows_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Lines that were not written before are written after."""
    caplog.handler.setLevel(logging.NOTSET)
    logger = logging.getLogger("anything")

    logger.debug("before")
    await ask("PUT", put("DEBUG"))
    logger.debug("after")

    assert caplog.messages[1:] == ["after"]


@pytest.mark.parametrize("headers", [(b"sec-fetch-site", b"cross-site"), (b"origin", b"null")])
@pytest.mark.parametrize("kind", [JSON, (b"content-type", b"text/plain"), None])
async def test_cross_site_change_of_the_level_is_refused(
    headers: tuple[bytes, bytes], kind: tuple[bytes, bytes] | None
) -> None:
    """Nothing is changed, and the response is a problem detail."""
    sent = (TOKEN, headers) if kind is None else (TOKEN, headers, kind)

    answer = await ask("PUT", put("DEBUG"), headers=sent)

    assert answer.status == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert log_level() == "INFO"


@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE", "BREW"])
async def test_other_method_is_refused_with_the_allowed_ones(method: str) -> None:
    """No token reaches a catch-all route of the application by another method."""
    answer = await ask(method)

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PUT, OPTIONS")
