"""An id for each request."""

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
from .records import Kept, logger_into

pytestmark = pytest.mark.anyio
NEW = re.compile(r"[0-9a-f]{32}")


def asking(*values: bytes) -> Scope:
    """A request that brings an id, or several."""
    return http_scope(headers=[(b"x-request-id", value) for value in values])


async def ids(app: RequestIdMiddleware, scope: Scope) -> str:
    """The id of a request, as its answer has it."""
    answer = await drive(app, scope)
    return answer.headers["x-request-id"]


async def test_a_request_without_an_id_gets_a_new_one() -> None:
    """Each its own."""
    app = RequestIdMiddleware(answering())

    first, second = await ids(app, http_scope()), await ids(app, http_scope())

    assert NEW.fullmatch(first)
    assert NEW.fullmatch(second)
    assert first != second


async def test_the_id_that_a_request_brings_is_kept() -> None:
    """So that the lines of several services about one request can be found together."""
    given = b"01J8Z:a/b+c=_.@-"

    assert await ids(RequestIdMiddleware(answering()), asking(given)) == given.decode()


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
async def test_an_id_that_could_do_harm_is_not_taken(values: list[bytes]) -> None:
    """It is to be one short word in one line; for any other a new one is made."""
    assert NEW.fullmatch(await ids(RequestIdMiddleware(answering()), asking(*values)))


async def test_clients_need_not_be_trusted() -> None:
    """Then what they bring is never taken."""
    app = RequestIdMiddleware(answering(), trust=False)

    assert NEW.fullmatch(await ids(app, asking(b"mine")))


@given(st.binary(max_size=200))
def test_every_id_is_one_short_word(value: bytes) -> None:
    """Whatever a request brings, what is logged and answered is harmless."""
    taken = anyio.run(ids, RequestIdMiddleware(answering()), asking(value))

    assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", taken)


async def test_the_header_may_have_another_name() -> None:
    """It is read and written under that name, in lower case."""
    app = RequestIdMiddleware(answering(), header="X-Correlation-ID")

    answer = await drive(app, http_scope(headers=[(b"x-correlation-id", b"abc")]))

    assert answer.headers["x-correlation-id"] == "abc"
    assert "x-request-id" not in answer.headers


async def test_ids_may_be_made_otherwise() -> None:
    """By a function of one's own."""
    assert await ids(RequestIdMiddleware(answering(), generate=lambda: "one"), http_scope()) == (
        "one"
    )


def failing() -> str:
    """Makes no id."""
    raise RuntimeError("no entropy")


@pytest.mark.parametrize(
    "generate",
    [failing, lambda: "two\nlines", lambda: None],
    ids=["raises", "gives two lines", "gives none"],
)
async def test_a_generator_that_fails_fails_no_request(
    generate: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Ours takes its place, and it is said once."""
    app = RequestIdMiddleware(answering(), generate=generate)

    for _ in range(2):
        assert NEW.fullmatch(await ids(app, http_scope()))
    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == [
        "request_id"
    ]


async def test_an_answers_own_id_stays() -> None:
    """It may be the vendor's, which its SDKs show and its support asks for."""
    app = RequestIdMiddleware(answering(headers=[(b"X-Request-Id", b"req_vendor")]))

    answer = await drive(app, asking(b"ours"))

    assert [pair for pair in answer.messages[0]["headers"] if b"equest" in pair[0]] == [
        (b"X-Request-Id", b"req_vendor")
    ]


@pytest.mark.parametrize("head", ["websocket.accept", "websocket.http.response.start"])
async def test_websockets_have_ids_too(head: str) -> None:
    """The handshake's answer carries it, whether accepted or denied."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_request_id())
        await send({"type": head})

    scope = {**asking(b"abc"), "type": "websocket"}
    answer = await drive(RequestIdMiddleware(app), scope)

    assert seen == ["abc"]
    assert answer.messages == [{"type": head, "headers": [(b"x-request-id", b"abc")]}]


async def test_the_application_knows_the_id() -> None:
    """From the scope, and anywhere in the request from `current_request_id`."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["tokenpulse_mw.request_id"])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(aside)
        seen.append(await anyio.to_thread.run_sync(current_request_id))
        await answering()(scope, receive, send)

    async def aside() -> None:
        seen.append(current_request_id())

    await drive(RequestIdMiddleware(app), asking(b"abc"))

    assert seen == ["abc", "abc", "abc"]
    assert current_request_id() is None


async def test_requests_at_the_same_time_have_their_own() -> None:
    """What one task logs is never another's."""
    arrived: dict[str, str | None] = {}
    both = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived[scope["tokenpulse_mw.request_id"]] = None
        if len(arrived) == 2:
            both.set()
        await both.wait()
        arrived[scope["tokenpulse_mw.request_id"]] = current_request_id()

    async with anyio.create_task_group() as tasks:
        for name in (b"a", b"b"):
            tasks.start_soon(drive, RequestIdMiddleware(app), asking(name))

    assert arrived == {"a": "a", "b": "b"}


async def test_of_two_such_middlewares_the_outer_one_counts() -> None:
    """A request has one id."""
    app = RequestIdMiddleware(RequestIdMiddleware(answering()), generate=lambda: "outer")

    answer = await drive(app, http_scope())

    assert [value for name, value in answer.messages[0]["headers"] if name == b"x-request-id"] == [
        b"outer"
    ]


async def test_a_request_within_a_request_has_its_own_id_for_as_long_as_it_takes() -> None:
    """An application that asks another in the same process has its own afterwards."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await drive(RequestIdMiddleware(answering()), asking(b"inner"))
        seen.append(current_request_id())

    await drive(RequestIdMiddleware(app), asking(b"outer"))

    assert seen == ["outer"]


async def test_the_servers_line_about_an_exception_has_the_id() -> None:
    """It is logged after the application is gone, and is the one that is looked for."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no upstream")

    async def served() -> str | None:
        answer = await drive(RequestIdMiddleware(app), asking(b"abc"))
        assert isinstance(answer.error, RuntimeError)
        return current_request_id()

    found: list[str | None] = []

    async def task() -> None:
        found.append(await served())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task)
    assert found == ["abc"]


async def test_every_line_of_the_request_has_the_id() -> None:
    """Where the handler has the filter; a line's own `request_id` stays."""
    kept = Kept()
    kept.addFilter(add_request_id)
    logger = logger_into(kept)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        logger.info("in")
        logger.info("own", extra={"request_id": "other"})

    logger.info("out")
    await drive(RequestIdMiddleware(app), asking(b"abc"))

    assert [getattr(record, "request_id", None) for record in kept.records] == [
        None,
        "abc",
        "other",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"header": "x request"}, "header must be a name such as 'x-request-id', got 'x request'"),
        ({"header": ""}, "header must be a name"),
        ({"generate": "uuid"}, "generate must be a function that gives an id, got 'uuid'"),
    ],
)
async def test_bad_options_are_refused(options: dict[str, str], said: str) -> None:
    """When the application is built."""
    with pytest.raises(ValueError, match=said):
        RequestIdMiddleware(answering(), **options)  # type: ignore[arg-type]


@given(chunks=st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_streams_pass_byte_for_byte_and_boundary_for_boundary(chunks: list[bytes]) -> None:
    """The server is given the very messages that the application sent, but for the header."""
    app = streaming(chunks)

    async def both() -> tuple[Answer, Answer]:
        return await drive(app), await drive(RequestIdMiddleware(app), asking(b"abc"))

    bare, wrapped = anyio.run(both)
    head = {**bare.messages[0]}
    head["headers"] = [*head["headers"], (b"x-request-id", b"abc")]
    assert wrapped.messages == [head, *bare.messages[1:]]


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    """With the server's own `receive` and `send`."""
    passed: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.extend([dict(scope), receive, send])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    await RequestIdMiddleware(app)({"type": kind}, receive, send)

    assert passed == [{"type": kind}, receive, send]


async def test_exceptions_and_messages_of_extensions_pass() -> None:
    """The very same, and a head may come without headers."""
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

    answer = await drive(RequestIdMiddleware(app), asking(b"abc"))

    assert answer.error is error
    assert answer.messages[1].pop("headers") == [(b"x-request-id", b"abc")]
    assert answer.messages == messages
    assert "headers" not in messages[1]


async def test_cancellation_reaches_the_application() -> None:
    """And the application can clean up, under the same id."""
    cleaned: list[str | None] = []
    begun = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(current_request_id())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive, RequestIdMiddleware(app), asking(b"abc"))
        await begun.wait()
        tasks.cancel_scope.cancel()

    assert cleaned == ["abc"]


async def test_new_ids_differ() -> None:
    """They are random, so that several processes need not agree on them."""
    made = {new_request_id() for _ in range(100)}

    assert len(made) == 100


async def test_the_filter_lets_every_record_through() -> None:
    """It only adds."""
    assert add_request_id(logging.makeLogRecord({}))
