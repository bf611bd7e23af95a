"""The tap on a POST: each chunk of a stream passes at the least cost, and none is forgotten."""

from __future__ import annotations

import gc
from collections.abc import Awaitable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.apps import event, streaming
from tests.support.asgi import drive, http_scope
from tokenpulse_mw import Exchange, ExchangeMiddleware, TokenUsage
from tokenpulse_mw.exchange import tap_of
from tokenpulse_mw.usage import UsageMeter, meter_for

HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
CHAT = [
    event(choices=[{"delta": {"content": "to"}}], usage=None),
    event(choices=[{"delta": {"content": "ken"}}], usage=None),
    event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 2}),
    b"data: [DONE]\n\n",
]
VERSIONS = ("2.3", "2.4")  # the second may raise, so its streams are sent by a coroutine of ours


def asked(version: str = "2.3") -> Scope:
    """A request to a model, as a server of this ASGI version makes it."""
    asgi = {"version": "3.0", "spec_version": version}
    return {**http_scope("/codex/chat", method="POST"), "asgi": asgi}


def body(piece: bytes, *, more: bool = True) -> Message:
    """One message of a stream."""
    return {"type": "http.response.body", "body": piece, "more_body": more}


async def nothing() -> Message:
    """A request without a body."""
    return {"type": "http.request"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pieces", [CHAT, [CHAT[0], b"".join(CHAT[1:])], [b"".join(CHAT)]])
@pytest.mark.anyio
async def test_a_stream_is_metered_whole(version: str, pieces: list[bytes]) -> None:
    """Whichever way it passes, and however it is cut.

    In an answer of one piece the first words are no sooner than all others, so they have no time.
    """
    seen: list[Exchange] = []

    answer = await drive(
        ExchangeMiddleware(streaming(pieces), observers=[seen.append]), asked(version)
    )

    assert answer.chunks == pieces
    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(9, 2), "reported")
    assert (seen[0].time_to_first_token is not None) is (len(pieces) > 1)


@given(most=st.integers(0, len(CHAT)), version=st.sampled_from(VERSIONS))
@pytest.mark.anyio
async def test_a_stream_that_stops_is_metered_to_its_last_chunk(most: int, version: str) -> None:
    """What was passed on last is not forgotten, however the application ends."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(streaming(CHAT[:most], ends=False), observers=[seen.append]),
        asked(version),
    )

    assert seen[0].outcome == "truncated"
    assert seen[0].usage == (TokenUsage(9, 2) if most >= 3 else None)
    assert seen[0].usage_source == ("partial" if most >= 3 else "missing")


@pytest.mark.parametrize("version", VERSIONS)
@given(buffers=st.lists(st.booleans(), min_size=len(CHAT), max_size=len(CHAT)))
@pytest.mark.anyio
async def test_a_stream_of_bytes_and_buffers_is_metered_in_its_order(
    version: str, buffers: list[bool]
) -> None:
    """However an application mixes them, and wherever an event is cut."""
    seen: list[Exchange] = []
    whole = b"".join(CHAT)
    first, rest = len(CHAT[0]), (len(whole) - len(CHAT[0])) // 3 + 1
    cuts = [0, first, first + rest, first + 2 * rest, len(whole)]
    pieces: list[Any] = [
        memoryview(whole[start:end]) if as_buffer else whole[start:end]
        for (start, end), as_buffer in zip(pairwise(cuts), buffers, strict=True)
    ]

    await drive(ExchangeMiddleware(streaming(pieces), observers=[seen.append]), asked(version))

    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(9, 2), "reported")


@pytest.mark.anyio
async def test_what_was_read_of_an_answer_is_let_go_with_its_end() -> None:
    """The application may live on for long, in background tasks."""
    held: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming(CHAT)(scope, receive, send)
        held.extend(hasattr(each, "ledger") for each in gc.get_referents(tap_of(scope)))

    await drive(ExchangeMiddleware(app), asked())

    assert True not in held


@pytest.mark.parametrize(
    ("content_type", "chunks"),
    [
        (b"text/event-stream", CHAT),
        (b"text/plain", CHAT),
        (b"application/octet-stream", [b"PK", b"\x03", b"\x04", b""]),
        (b"image/png", [b"\x89", b"PNG", b"\r", b""]),
    ],
)
@pytest.mark.anyio
async def test_a_chunk_of_a_stream_costs_no_coroutine(
    content_type: bytes, chunks: list[bytes]
) -> None:
    """What the server's `send` gives is given on, once no time is left to be noted."""
    head = {**HEAD, "headers": [(b"content-type", content_type)]}
    given_on: list[Awaitable[None]] = []
    same: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (head, *map(body, chunks[:3]), body(chunks[3], more=False)):
            waiting = send(message)
            same.append(waiting in given_on)
            await waiting

    async def sent() -> None:
        """Nothing more."""

    def send(message: Message) -> Awaitable[None]:
        given_on.append(sent())
        return given_on[-1]

    await ExchangeMiddleware(app)(asked(), nothing, send)

    assert same == [False, False, True, True, False]


class Failing:
    """A meter that fails after so many chunks, or at the end."""

    waiting = False

    def __init__(self, inner: UsageMeter, left: int) -> None:
        self.ledger = inner.ledger
        self.left = left

    def feed(self, chunk: bytes) -> None:
        """Fail, sooner or later."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no such vendor")

    def finish(self, *, complete: bool) -> None:
        """Fail at last."""
        raise RuntimeError("no such end")


@pytest.mark.parametrize("left", [0, 2, 100])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.anyio
async def test_a_meter_that_fails_costs_only_the_usage(
    version: str, left: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on, the exchange is told, and the failure is logged once."""

    def failing(content_type: bytes, encoding: bytes) -> UsageMeter:
        meter = meter_for(content_type, encoding)
        assert meter is not None
        return Failing(meter, left)

    monkeypatch.setattr("tokenpulse_mw.exchange.metered_tap.meter_for", failing)
    seen: list[Exchange] = []
    app: ASGIApp = streaming([*CHAT, *CHAT])

    answer = await drive(ExchangeMiddleware(app, observers=[seen.append]), asked(version))

    assert answer.chunks == [*CHAT, *CHAT]
    assert [(each.outcome, each.usage) for each in seen] == [("complete", None)]
    assert len(caplog.records) == 1
