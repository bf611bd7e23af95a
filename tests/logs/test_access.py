"""The access log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, TokenUsage, annotate, drop_exchange
from tokenpulse_mw.logs import AccessLog, JsonFormatter, RequestIdMiddleware

from ..support.apps import listening, raising, raising_later, silent
from ..support.asgi import drive, http_scope
from .records import Kept, logger_into

WHOLE = Exchange(
    "POST",
    1000.0,
    route="/v1/{vendor}/messages",
    status=200,
    provider="claude",
    duration=1.23456,
    time_to_first_byte=0.21,
    usage=TokenUsage(input=12, output=345),
    model="claude-sonnet",
    tenant="acme",
    api_key="k1",
    credential="c1",
)


def logged(exchange: Exchange, **options: Any) -> list[logging.LogRecord]:
    """What is logged of `exchange`."""
    kept = Kept()
    AccessLog(logger_into(kept, options.pop("enabled", logging.DEBUG)), **options)(exchange)
    return kept.records


def line(exchange: Exchange, **options: Any) -> str:
    """The text that is logged of `exchange`."""
    (record,) = logged(exchange, **options)
    return record.getMessage()


def exchange(status: int = 200, **facts: Any) -> Exchange:
    """One of which little is known."""
    return Exchange("GET", 0.0, route="/", status=status, provider="unknown", **facts)


def test_a_line_is_short_and_can_be_grepped() -> None:
    """Method, route and status come first, and then what has a name."""
    assert line(WHOLE) == (
        "POST /v1/{vendor}/messages 200 provider=claude outcome=complete duration=1.2346 "
        "time_to_first_byte=0.21 input_tokens=12 output_tokens=345 model=claude-sonnet"
    )


def test_what_is_not_known_is_left_out() -> None:
    """There is no field without a value."""
    assert line(exchange()) == "GET / 200 provider=unknown outcome=complete duration=0.0"


def test_json_has_the_same_as_fields() -> None:
    """In types of their own, so that they can be compared and summed up."""
    (record,) = logged(WHOLE)
    entry = json.loads(JsonFormatter().format(record))

    assert {name: entry[name] for name in entry if name not in ("time", "message")} == {
        "level": "INFO",
        "module": "test",
        "method": "POST",
        "route": "/v1/{vendor}/messages",
        "status": 200,
        "provider": "claude",
        "outcome": "complete",
        "duration": 1.2346,
        "time_to_first_byte": 0.21,
        "input_tokens": 12,
        "output_tokens": 345,
        "model": "claude-sonnet",
    }


def test_who_asked_is_written_only_when_asked_for() -> None:
    """Master, key and credential, each by itself."""
    assert "acme" not in line(WHOLE)
    assert line(WHOLE, include=["tenant"]).endswith(" tenant=acme")
    assert line(WHOLE, include=("api_key", "credential")).endswith(" api_key=k1 credential=c1")
    assert "tenant" not in line(exchange(), include=["tenant"])


def test_a_limited_request_says_so() -> None:
    """As a field of its own; a vendor's 429 has none."""
    assert line(exchange(429, limited=True)).endswith(" limited=true")
    assert "limited" not in line(exchange(429))


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("models/gemini-2.5:latest", "models/gemini-2.5:latest"),
        ("x status=200", '"x status=200"'),
        ('x"', '"x\\""'),
        ("通义", '"\\u901a\\u4e49"'),
        ("", '""'),
        ("a" * 1000, "a" * 256),
    ],
)
def test_a_models_name_cannot_pass_for_other_fields(model: str, written: str) -> None:
    """It is one word, quoted where it has to be, and no longer than 256 characters."""
    assert line(exchange(model=model)).endswith(f" model={written}")


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"status": 200}, "INFO"),
        ({"status": 404}, "INFO"),
        ({"status": 429, "limited": True}, "INFO"),
        ({"status": 499, "outcome": "client_disconnect"}, "INFO"),
        ({"status": 500}, "WARNING"),
        ({"status": 529}, "WARNING"),
        ({"status": 200, "outcome": "error"}, "WARNING"),
        ({"status": 200, "outcome": "truncated"}, "WARNING"),
    ],
)
def test_what_failed_is_a_warning(facts: dict[str, Any], level: str) -> None:
    """What a client did wrong, or gave up, is no failure of the gateway."""
    (record,) = logged(exchange(**facts))

    assert record.levelname == level


@pytest.mark.parametrize(
    ("level", "levels"), [("DEBUG", ["DEBUG", "WARNING"]), ("ERROR", ["ERROR", "ERROR"])]
)
def test_the_level_can_be_chosen(level: str, levels: list[str]) -> None:
    """A failure is never less than a warning, and never less than other lines."""
    records = [*logged(exchange(), level=level), *logged(exchange(500), level=level)]

    assert [record.levelname for record in records] == levels


def test_what_is_below_the_loggers_level_is_not_written() -> None:
    """Failures are, while they are above it."""
    assert logged(exchange(), enabled=logging.WARNING) == []
    assert len(logged(exchange(500), enabled=logging.WARNING)) == 1
    assert logged(exchange(500), enabled=logging.ERROR) == []


@pytest.mark.parametrize(("sample", "lines"), [(1.0, 4), (0.5, 2), (0.0, 0)])
def test_a_share_of_the_lines_can_be_asked_for(sample: float, lines: int) -> None:
    """Chance says which."""
    kept = Kept()
    chances = iter([0.0, 0.25, 0.5, 0.75])
    log = AccessLog(logger_into(kept), sample=sample, chance=lambda: next(chances))

    for _ in range(4):
        log(exchange())

    assert len(kept.records) == lines


def test_failures_are_all_written() -> None:
    """Also where no other line is."""
    assert len(logged(exchange(500), sample=0)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "LOUD"}, "log level must be one of"),
        ({"sample": 10}, "sample must be a share from 0 to 1, got 10"),
        ({"sample": float("nan")}, "sample must be a share"),
        ({"include": ["path"]}, "include can name tenant, api_key, credential; got 'path'"),
        ({"include": "tenant"}, "include must be a list of names, got the string 'tenant'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    """The error says what came and what there is."""
    with pytest.raises(ValueError, match=said):
        AccessLog(**options)


def test_the_logger_is_one_of_ours() -> None:
    """So that its level can be set apart from others'."""
    kept = Kept()
    logger = logging.getLogger("tokenpulse_mw.access")
    logger.addHandler(kept)
    try:
        AccessLog(level="ERROR")(exchange())
    finally:
        logger.removeHandler(kept)

    assert [record.name for record in kept.records] == ["tokenpulse_mw.access"]


class PassingOn(BaseHTTPMiddleware):
    """Runs the application in another task."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


async def whole(request: Request) -> Response:
    """Answers at once, and has something left to do."""
    annotate(request, tenant="acme")
    return PlainTextResponse("secret body", background=BackgroundTask(anyio.sleep, 0))


async def stream(request: Request) -> Response:
    """Answers bit by bit."""
    return StreamingResponse(iter(["a", "b"]))


def threaded(request: Request) -> Response:
    """Answers from a thread."""
    return PlainTextResponse("done")


async def probe(request: Request) -> Response:
    """Is not to be logged."""
    drop_exchange(request.scope)
    return PlainTextResponse("ok")


def gateway(*others: Middleware) -> ASGIApp:
    """An application of each kind of route."""
    routes = [Route(f"/{each.__name__}/{{id}}", each) for each in (whole, stream, threaded, probe)]
    return Starlette(routes=routes, middleware=others)


def staying(app: ASGIApp) -> ASGIApp:
    """`app` with a client that waits for its answer."""
    coming: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not coming:
            await anyio.sleep_forever()
        return coming.pop()

    async def waited_for(scope: Scope, _: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return waited_for


async def lines_of(app: ASGIApp, path: str = "/", **more: Any) -> list[str]:
    """What the access log says of one request with the id `abc` to `app`."""
    kept = Kept()
    log = AccessLog(logger_into(kept))
    wrapped = RequestIdMiddleware(ExchangeMiddleware(app, observers=[log]))
    scope = http_scope(path, headers=[(b"x-request-id", b"abc"), (b"cookie", b"secret")], **more)
    await drive(wrapped, scope)
    return kept.messages


@pytest.mark.parametrize("others", [(), (Middleware(PassingOn),)])
@pytest.mark.parametrize("name", ["whole", "stream", "threaded"])
@pytest.mark.anyio
async def test_a_line_has_the_requests_id(name: str, others: tuple[Middleware, ...]) -> None:
    """However the application answers; and never the path, the body or a header's value."""
    app = staying(gateway(*others))

    (said,) = await lines_of(app, f"/{name}/who-asks", query_string=b"q=secret")

    assert said.startswith(f"GET /{name}/{{id}} 200 ")
    assert said.endswith(" request_id=abc")
    assert "secret" not in said
    assert "who-asks" not in said


@pytest.mark.parametrize(
    ("app", "begins"),
    [
        (raising, "GET /{path} 500 provider=unknown outcome=error"),
        (raising_later, "GET /{path} 200 provider=unknown outcome=error"),
        (silent, "GET /{path} 500 provider=unknown outcome=error"),
        (listening, "GET /{path} 499 provider=unknown outcome=client_disconnect"),
    ],
    ids=["raises", "raises later", "is silent", "client leaves"],
)
@pytest.mark.anyio
async def test_what_ends_otherwise_has_it_too(app: ASGIApp, begins: str) -> None:
    """An exception, silence, and a client that leaves."""
    (said,) = await lines_of(app, "/threaded/1")

    assert said.startswith(begins)
    assert said.endswith(" request_id=abc")


@pytest.mark.anyio
async def test_a_cancelled_request_has_it_too() -> None:
    """As servers end what nobody waits for any more."""
    kept = Kept()
    begun = anyio.Event()

    async def app(scope: object, receive: object, send: object) -> None:
        begun.set()
        await anyio.sleep_forever()

    log = AccessLog(logger_into(kept))
    wrapped = RequestIdMiddleware(ExchangeMiddleware(app, observers=[log]), generate=lambda: "abc")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive, wrapped, http_scope())
        await begun.wait()
        tasks.cancel_scope.cancel()

    assert [said.rpartition(" ")[2] for said in kept.messages] == ["request_id=abc"]


@pytest.mark.anyio
async def test_probes_are_not_logged() -> None:
    """What is dropped from metrics is dropped here as well."""
    assert await lines_of(gateway(), "/probe/1") == []


@pytest.mark.parametrize("make", [JsonFormatter, logging.Formatter])
def test_a_line_can_be_written_by_a_queue_of_the_standard_library(
    make: Callable[[], logging.Formatter],
) -> None:
    """Its `QueueHandler` takes the text in the request's place, and another thread writes it."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    AccessLog(logger_into(QueueHandler(queue)))(WHOLE)

    assert "POST /v1/{vendor}/messages 200" in make().format(queue.get())
