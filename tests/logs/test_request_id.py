"""Request ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from tokenpulse_mw.logs import (
    RequestIdMiddleware,
    add_request_id,
    current_request_id,
    new_request_id,
)

from ..support.apps import answering, streaming
from ..support.asgi import Answer, drive, http_scope
from .records import RecordList, logger_into

pytestmark = pytest.mark.anyio
NEW = re.compile(r"[0-9a-f]{32}")


def request_with(*values: bytes) -> Scope:
    """Return a request with the ids in its header, one line each."""
    return http_scope(headers=[(b"x-request-id", value) for value in values])


async def id_of(app: RequestIdMiddleware, scope: Scope) -> str:
    """Return the id in the response header."""
    response = await drive(app, scope)
    return response.headers["x-request-id"]


async def test_request_without_an_id_gets_a_new_one() -> None:
    """Two requests get different ids."""
    app = RequestIdMiddleware(answering())

    first, second = await id_of(app, http_scope()), await id_of(app, http_scope())

    assert NEW.fullmatch(first)
    assert NEW.fullmatch(second)
    assert first != second


async def test_id_of_the_request_header_is_used() -> None:
    """Log lines of several services about one request have the same id."""
    request_id = b"01J8Z:a/b+c=_.@-"

    response_id = await id_of(RequestIdMiddleware(answering()), request_with(request_id))

    assert response_id == request_id.decode()


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b"a b"],
        [b"a\nb"],
        [b"a\n"],
        [b"a,b"],
        [b'a"'],
        ["é".encode()],
        [b"\xe9"],
        [b"a" * 129],
        [b"a", b"b"],
        [b"a", b"a"],
    ],
)
async def test_invalid_id_is_replaced_by_a_new_one(values: list[bytes]) -> None:
    """A valid id is one header line of at most 128 safe characters."""
    assert NEW.fullmatch(await id_of(RequestIdMiddleware(answering()), request_with(*values)))


async def test_without_trust_a_new_id_is_generated() -> None:
    """The request header is ignored."""
    app = RequestIdMiddleware(answering(), trust=False)

    assert NEW.fullmatch(await id_of(app, request_with(b"mine")))


@given(st.binary(max_size=200))
def test_any_header_value_gives_a_valid_id(value: bytes) -> None:
    """The id in the response is valid for any bytes in the request header."""
    request_id = anyio.run(id_of, RequestIdMiddleware(answering()), request_with(value))

    assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", request_id)


async def test_header_name_is_configurable_and_case_insensitive() -> None:
    """The header is read and written in lower case."""
    app = RequestIdMiddleware(answering(), header="X-Correlation-ID")

    response = await drive(app, http_scope(headers=[(b"x-correlation-id", b"abc")]))

    assert response.headers["x-correlation-id"] == "abc"
    assert "x-request-id" not in response.headers


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
@pytest.mark.parametrize("own_id", [[(b"X-Request-Id", b"v1")], []], ids=["own id", "no id"])
async def test_response_headers_may_be_any_iterable(
    own_id: list[tuple[bytes, bytes]], kind: type
) -> None:
    """A generator of headers, as Sanic sends, reaches the client with one id."""

    async def vendor(scope: Scope, receive: Receive, send: Send) -> None:
        headers = kind([(b"content-type", b"application/json"), *own_id])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    (start, _) = (await drive(RequestIdMiddleware(vendor), request_with(b"r1"))).messages

    assert start["headers"] == [
        (b"content-type", b"application/json"),
        *(own_id or [(b"x-request-id", b"r1")]),
    ]


async def test_generate_returns_new_ids() -> None:
    """A function of the application replaces the default."""
    assert await id_of(RequestIdMiddleware(answering(), generate=lambda: "one"), http_scope()) == (
        "one"
    )


def failing() -> str:
    """Raise an error."""
    raise RuntimeError("no entropy")


@pytest.mark.parametrize(
    "generate",
    [failing, lambda: "two\nlines", lambda: None],
    ids=["raises", "two lines", "None"],
)
async def test_failing_generator_falls_back_to_the_default(
    generate: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged once, and no request fails."""
    app = RequestIdMiddleware(answering(), generate=generate)

    for _ in range(2):
        assert NEW.fullmatch(await id_of(app, http_scope()))
    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == [
        "request_id"
    ]


async def test_existing_response_header_is_unchanged() -> None:
    """The header may be the vendor's id, which its SDKs show and its support requires."""
    app = RequestIdMiddleware(answering(headers=[(b"X-Request-Id", b"req_vendor")]))

    response = await drive(app, request_with(b"ours"))

    assert [pair for pair in response.messages[0]["headers"] if b"equest" in pair[0]] == [
        (b"X-Request-Id", b"req_vendor")
    ]


@pytest.mark.parametrize("message_type", ["websocket.accept", "websocket.http.response.start"])
async def test_websocket_handshake_has_the_id(message_type: str) -> None:
    """The response has the id, whether the WebSocket is accepted or denied."""
    ids: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ids.append(current_request_id())
        await send({"type": message_type})

    scope = {**request_with(b"abc"), "type": "websocket"}
    response = await drive(RequestIdMiddleware(app), scope)

    assert ids == ["abc"]
    assert response.messages == [{"type": message_type, "headers": [(b"x-request-id", b"abc")]}]


async def test_id_is_in_the_scope_and_in_the_context() -> None:
    """`current_request_id` returns it in tasks and threads of the request."""
    ids: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ids.append(scope["tokenpulse_mw.request_id"])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child_task)
        ids.append(await anyio.to_thread.run_sync(current_request_id))
        await answering()(scope, receive, send)

    async def child_task() -> None:
        ids.append(current_request_id())

    await drive(RequestIdMiddleware(app), request_with(b"abc"))

    assert ids == ["abc", "abc", "abc"]
    assert current_request_id() is None


async def test_concurrent_requests_have_their_own_ids() -> None:
    """The id of one task is not visible in another."""
    id_by_name: dict[str, str | None] = {}
    both_arrived = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        id_by_name[scope["tokenpulse_mw.request_id"]] = None
        if len(id_by_name) == 2:
            both_arrived.set()
        await both_arrived.wait()
        id_by_name[scope["tokenpulse_mw.request_id"]] = current_request_id()

    async with anyio.create_task_group() as tasks:
        for name in (b"a", b"b"):
            tasks.start_soon(drive, RequestIdMiddleware(app), request_with(name))

    assert id_by_name == {"a": "a", "b": "b"}


async def test_outer_middleware_assigns_the_id() -> None:
    """An inner `RequestIdMiddleware` changes nothing."""
    app = RequestIdMiddleware(RequestIdMiddleware(answering()), generate=lambda: "outer")

    response = await drive(app, http_scope())

    assert [
        value for name, value in response.messages[0]["headers"] if name == b"x-request-id"
    ] == [b"outer"]


async def test_nested_request_restores_the_outer_id() -> None:
    """An application that calls another in the same process has its id afterwards."""
    ids: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await drive(RequestIdMiddleware(answering()), request_with(b"inner"))
        ids.append(current_request_id())

    await drive(RequestIdMiddleware(app), request_with(b"outer"))

    assert ids == ["outer"]


async def test_id_is_not_reset_after_an_exception() -> None:
    """The server logs the exception after the application has returned."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no upstream")

    async def serve() -> str | None:
        response = await drive(RequestIdMiddleware(app), request_with(b"abc"))
        assert isinstance(response.error, RuntimeError)
        return current_request_id()

    ids: list[str | None] = []

    async def task() -> None:
        ids.append(await serve())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task)
    assert ids == ["abc"]


async def test_filter_adds_the_id_to_records() -> None:
    """A `request_id` of the record itself is unchanged."""
    handler = RecordList()
    handler.addFilter(add_request_id)
    logger = logger_into(handler)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        logger.info("in")
        logger.info("own", extra={"request_id": "other"})

    logger.info("out")
    await drive(RequestIdMiddleware(app), request_with(b"abc"))

    assert [getattr(record, "request_id", None) for record in handler.records] == [
        None,
        "abc",
        "other",
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"header": "x request"}, "header must be a header name such as 'x-request-id', got 'x r"),
        ({"header": ""}, "header must be a header name"),
        ({"generate": "uuid"}, "generate must be a function that returns an id, got 'uuid'"),
    ],
)
async def test_invalid_option_is_rejected(options: dict[str, str], error: str) -> None:
    """The constructor raises an error with the option and the value it got."""
    with pytest.raises(ValueError, match=error):
        RequestIdMiddleware(answering(), **options)  # type: ignore[arg-type]


@given(chunks=st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_stream_passes_unchanged(chunks: list[bytes]) -> None:
    """The messages equal those of the application, except for the header."""
    app = streaming(chunks)

    async def run_both() -> tuple[Answer, Answer]:
        return await drive(app), await drive(RequestIdMiddleware(app), request_with(b"abc"))

    bare, wrapped = anyio.run(run_both)
    start = {**bare.messages[0]}
    start["headers"] = [*start["headers"], (b"x-request-id", b"abc")]
    assert wrapped.messages == [start, *bare.messages[1:]]


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scope_passes_unchanged(kind: str) -> None:
    """The application gets the server's own `receive` and `send`."""
    passed: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.extend([dict(scope), receive, send])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    await RequestIdMiddleware(app)({"type": kind}, receive, send)

    assert passed == [{"type": kind}, receive, send]


async def test_exceptions_and_extension_messages_pass() -> None:
    """A response start without headers gets the header."""
    error = RuntimeError("after")
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": [b"</style.css>"]},
        {"type": "http.response.start", "status": 200, "trailers": True},
        {"type": "http.response.zerocopysend", "file": 3},
        {"type": "http.response.trailers", "headers": []},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise error

    response = await drive(RequestIdMiddleware(app), request_with(b"abc"))

    assert response.error is error
    assert response.messages[1].pop("headers") == [(b"x-request-id", b"abc")]
    assert response.messages == messages
    assert "headers" not in messages[1]


async def test_cancellation_reaches_the_application() -> None:
    """The application has its id during the cleanup."""
    ids_at_cleanup: list[str | None] = []
    started = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            ids_at_cleanup.append(current_request_id())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive, RequestIdMiddleware(app), request_with(b"abc"))
        await started.wait()
        tasks.cancel_scope.cancel()

    assert ids_at_cleanup == ["abc"]


async def test_new_ids_are_unique() -> None:
    """Ids are random, so that processes need no coordination."""
    assert len({new_request_id() for _ in range(100)}) == 100


async def test_filter_accepts_every_record() -> None:
    """A record outside of a request is not dropped."""
    assert add_request_id(logging.makeLogRecord({}))
