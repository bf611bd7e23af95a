"""Access log."""

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
from tokenpulse_mw.logs import AccessLog, JsonFormatter, RequestIdMiddleware, TextFormatter

from ..support.apps import raising, raising_mid_stream, returning_at_disconnect, silent
from ..support.asgi import drive, http_scope
from .records import RecordList, logger_into

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
    credential_group="claude prod",
    tenant_name="Acme Ltd",
)


def logged(exchange: Exchange, **options: Any) -> list[logging.LogRecord]:
    """Return the records that AccessLog logs for `exchange`."""
    handler = RecordList()
    AccessLog(logger_into(handler, options.pop("enabled", logging.DEBUG)), **options)(exchange)
    return handler.records


def line_of(exchange: Exchange, **options: Any) -> str:
    """Return the only line that AccessLog logs for `exchange`."""
    (record,) = logged(exchange, **options)
    return record.getMessage()


def minimal_exchange(status: int = 200, **facts: Any) -> Exchange:
    """Return an exchange with few known values."""
    return Exchange("GET", 0.0, route="/", status=status, provider="unknown", **facts)


def test_line_begins_with_method_route_and_status() -> None:
    """Named fields follow in a fixed order."""
    assert line_of(WHOLE) == (
        "POST /v1/{vendor}/messages 200 provider=claude outcome=complete duration=1.2346 "
        "time_to_first_byte=0.21 input_tokens=12 output_tokens=345 model=claude-sonnet"
    )


def test_unknown_values_are_omitted() -> None:
    """A line has no field without a value."""
    assert line_of(minimal_exchange()) == "GET / 200 provider=unknown outcome=complete duration=0.0"


def test_json_line_has_the_fields_in_json_types() -> None:
    """Numbers are numbers, so that a log store can compare and sum them."""
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


def test_tenant_key_and_credential_are_logged_only_if_included() -> None:
    """Each field is included separately, and only if the exchange has a value for it."""
    assert "acme" not in line_of(WHOLE)
    assert line_of(WHOLE, include=["tenant"]).endswith(" tenant=acme")
    assert line_of(WHOLE, include=("api_key", "credential")).endswith(" api_key=k1 credential=c1")
    assert "tenant" not in line_of(minimal_exchange(), include=["tenant"])
    assert "Acme" not in line_of(WHOLE)
    names = ["tenant_name", "credential_group"]
    assert line_of(WHOLE, include=names).endswith(
        ' tenant_name="Acme Ltd" credential_group="claude prod"'
    )


@pytest.mark.parametrize("field", ["tenant_name", "credential_group"])
def test_name_forges_neither_a_line_nor_a_field(field: str) -> None:
    """Users choose names, so line ends are escaped, in text and in JSON."""
    name = 'Acme" status=200\n[2026] [INFO] [x] forged\u2028{"level":"ERROR"}\x1b[2J'

    (record,) = logged(minimal_exchange(502, **{field: name}), include=[field])

    text, entry = TextFormatter().format(record), JsonFormatter().format(record)
    assert len(text.splitlines()) == len(entry.split("\n")) == 1
    assert "\x1b" not in text + entry
    assert text.endswith(f" {field}={json.dumps(name)}")
    assert json.loads(entry)[field] == name


def test_limited_exchange_has_the_limited_field() -> None:
    """A 429 of a vendor does not have the field."""
    assert line_of(minimal_exchange(429, limited=True)).endswith(" limited=true")
    assert "limited" not in line_of(minimal_exchange(429))


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
def test_model_name_cannot_forge_other_fields(model: str, written: str) -> None:
    """The name is one word, quoted if needed, of at most 256 characters."""
    assert line_of(minimal_exchange(model=model)).endswith(f" model={written}")


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
def test_failed_exchange_is_logged_as_warning(facts: dict[str, Any], level: str) -> None:
    """Client errors and client disconnects are not failures of the gateway."""
    (record,) = logged(minimal_exchange(**facts))

    assert record.levelname == level


@pytest.mark.parametrize(
    ("level", "levels"), [("DEBUG", ["DEBUG", "WARNING"]), ("ERROR", ["ERROR", "ERROR"])]
)
def test_level_applies_to_successes_and_raises_that_of_failures(
    level: str, levels: list[str]
) -> None:
    """A failure is logged at least as WARNING, and never below the level of other lines."""
    records = [
        *logged(minimal_exchange(), level=level),
        *logged(minimal_exchange(500), level=level),
    ]

    assert [record.levelname for record in records] == levels


def test_level_of_the_logger_filters_lines() -> None:
    """Failures are logged while WARNING is enabled."""
    assert logged(minimal_exchange(), enabled=logging.WARNING) == []
    assert len(logged(minimal_exchange(500), enabled=logging.WARNING)) == 1
    assert logged(minimal_exchange(500), enabled=logging.ERROR) == []


@pytest.mark.parametrize(("sample", "lines"), [(1.0, 4), (0.5, 2), (0.0, 0)])
def test_sample_logs_a_share_of_the_successes(sample: float, lines: int) -> None:
    """An exchange is logged if its random number is below the share."""
    handler = RecordList()
    numbers = iter([0.0, 0.25, 0.5, 0.75])
    log = AccessLog(logger_into(handler), sample=sample, chance=lambda: next(numbers))

    for _ in range(4):
        log(minimal_exchange())

    assert len(handler.records) == lines


def test_sample_does_not_apply_to_failures() -> None:
    """A failure is logged even if the share is 0."""
    assert len(logged(minimal_exchange(500), sample=0)) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"level": "LOUD"}, "log level must be one of"),
        ({"sample": 10}, "sample must be a number from 0 to 1, got 10"),
        ({"sample": float("nan")}, "sample must be a number from 0 to 1, got nan"),
        (
            {"include": ["path"]},
            "include must be one of tenant, tenant_name, api_key, credential, credential_group, "
            "got 'path'",
        ),
        ({"include": "tenant"}, r"include must be a list of strings, such as \['tenant'\], got 't"),
    ],
)
def test_invalid_option_is_rejected(options: dict[str, Any], error: str) -> None:
    """The error names the option, the expected value and the value it got."""
    with pytest.raises(ValueError, match=error):
        AccessLog(**options)


def test_default_logger_is_the_access_logger() -> None:
    """The level of the logger can be set by its name."""
    handler = RecordList()
    logger = logging.getLogger("tokenpulse_mw.access")
    logger.addHandler(handler)
    try:
        AccessLog(level="ERROR")(minimal_exchange())
    finally:
        logger.removeHandler(handler)

    assert [record.name for record in handler.records] == ["tokenpulse_mw.access"]


class PassThrough(BaseHTTPMiddleware):
    """Middleware that runs the application in another task."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


async def whole(request: Request) -> Response:
    """Respond at once, and run a background task."""
    annotate(request, tenant="acme")
    return PlainTextResponse("secret body", background=BackgroundTask(anyio.sleep, 0))


async def stream(request: Request) -> Response:
    """Stream a response of two chunks."""
    return StreamingResponse(iter(["a", "b"]))


def threaded(request: Request) -> Response:
    """Respond from a worker thread."""
    return PlainTextResponse("done")


async def probe(request: Request) -> Response:
    """Exclude the request from the access log."""
    drop_exchange(request.scope)
    return PlainTextResponse("ok")


def gateway(*others: Middleware) -> ASGIApp:
    """Return an application with one route for each kind of endpoint."""
    routes = [Route(f"/{view.__name__}/{{id}}", view) for view in (whole, stream, threaded, probe)]
    return Starlette(routes=routes, middleware=others)


def with_waiting_client(app: ASGIApp) -> ASGIApp:
    """Return `app` with a client that does not disconnect."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop()

    async def wrapped(scope: Scope, _: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return wrapped


async def access_lines(app: ASGIApp, path: str = "/", **more: Any) -> list[str]:
    """Return the access log lines of one request with the id `abc`."""
    handler = RecordList()
    log = AccessLog(logger_into(handler))
    wrapped = RequestIdMiddleware(ExchangeMiddleware(app, observers=[log]))
    scope = http_scope(path, headers=[(b"x-request-id", b"abc"), (b"cookie", b"secret")], **more)
    await drive(wrapped, scope)
    return handler.messages


@pytest.mark.parametrize("others", [(), (Middleware(PassThrough),)])
@pytest.mark.parametrize("name", ["whole", "stream", "threaded"])
@pytest.mark.anyio
async def test_line_has_the_request_id_and_no_request_data(
    name: str, others: tuple[Middleware, ...]
) -> None:
    """Path, query, body and header values are not logged, whichever way the app responds."""
    app = with_waiting_client(gateway(*others))

    (line,) = await access_lines(app, f"/{name}/tenant-7", query_string=b"q=secret")

    assert line.startswith(f"GET /{name}/{{id}} 200 ")
    assert line.endswith(" request_id=abc")
    assert "secret" not in line
    assert "tenant-7" not in line


@pytest.mark.parametrize(
    ("app", "begins"),
    [
        (raising, "GET /{path} 500 provider=unknown outcome=error"),
        (raising_mid_stream, "GET /{path} 200 provider=unknown outcome=error"),
        (silent, "GET /{path} 500 provider=unknown outcome=error"),
        (returning_at_disconnect, "GET /{path} 499 provider=unknown outcome=client_disconnect"),
    ],
    ids=["raises", "raises later", "is silent", "client leaves"],
)
@pytest.mark.anyio
async def test_line_of_an_abnormal_end_has_the_request_id(app: ASGIApp, begins: str) -> None:
    """Exceptions, missing responses and disconnects are logged with the id."""
    (line,) = await access_lines(app, "/threaded/1")

    assert line.startswith(begins)
    assert line.endswith(" request_id=abc")


@pytest.mark.anyio
async def test_line_of_a_cancelled_request_has_the_request_id() -> None:
    """A server cancels a request after its client has disconnected."""
    handler = RecordList()
    started = anyio.Event()

    async def app(scope: object, receive: object, send: object) -> None:
        started.set()
        await anyio.sleep_forever()

    log = AccessLog(logger_into(handler))
    wrapped = RequestIdMiddleware(ExchangeMiddleware(app, observers=[log]), generate=lambda: "abc")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive, wrapped, http_scope())
        await started.wait()
        tasks.cancel_scope.cancel()

    assert [line.rpartition(" ")[2] for line in handler.messages] == ["request_id=abc"]


@pytest.mark.anyio
async def test_dropped_exchange_is_not_logged() -> None:
    """The access log excludes the same exchanges as metrics."""
    assert await access_lines(gateway(), "/probe/1") == []


@pytest.mark.parametrize("make", [JsonFormatter, logging.Formatter])
def test_line_can_be_formatted_in_another_thread(
    make: Callable[[], logging.Formatter],
) -> None:
    """`logging.handlers.QueueHandler` formats the text in the request's thread."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    AccessLog(logger_into(QueueHandler(queue)))(WHOLE)

    assert "POST /v1/{vendor}/messages 200" in make().format(queue.get())


def test_response_over_a_websocket_is_logged_with_a_method_of_its_own() -> None:
    """A line of a response is not mistaken for that of the handshake, a GET request."""
    handler = RecordList()
    log = AccessLog(logger_into(handler, logging.DEBUG))
    exchange = minimal_exchange(101, usage=TokenUsage(132, 121), model="gpt-realtime")

    log.on_websocket_usage(exchange)
    exchange.outcome = "error"
    log.on_websocket_usage(exchange)

    assert exchange.method == "GET"
    assert [record.levelname for record in handler.records] == ["INFO", "WARNING"]
    line = handler.records[0].getMessage()
    assert line.startswith("WEBSOCKET / 101 provider=unknown outcome=complete ")
    assert "input_tokens=132 output_tokens=121 model=gpt-realtime" in line
