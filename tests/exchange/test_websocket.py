"""Recorder of WebSockets: usage of the models that respond over them, and unchanged frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    HttpMetrics,
    MetricsMiddleware,
    Observer,
    Prices,
    Providers,
    Rates,
    TokenUsage,
    annotate,
)
from tokenpulse_mw.exchange import drop_exchange, recorder_of
from tokenpulse_mw.exchange.websocket import WebSocketRecorder, add_usage_callback
from tokenpulse_mw.usage import WebSocketMeter

from ..support.clock import FakeClock
from ..support.websockets import ACCEPT, CLOSE, Turns, connect, message_of, proxy, received
from ..usage.sessions import (
    LIVE,
    SESSIONS,
    Frame,
    Session,
    model_turn,
    response,
    responses_usage,
    text_delta,
)

CREATED = response("response.created", "resp_1")
DONE = response("response.completed", "resp_1", responses_usage(read=3, written=4))
UNREADABLE = '"usage":{"input_tokens":1}}}'

every_session = pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)


def metered(app: ASGIApp, *observers: Any, **options: Any) -> ExchangeMiddleware:
    """Return `app` in a middleware that meters its WebSockets."""
    return ExchangeMiddleware(app, observers=observers, websocket_usage=True, **options)


@every_session
@pytest.mark.anyio
async def test_every_response_is_observed(session: Session) -> None:
    """Observers are notified of each response of a session, to the token."""
    turns = Turns()

    await connect(metered(proxy(*session.server, CLOSE), turns), client=session.client)

    assert turns.outcomes == session.responses
    assert turns.errors == []
    assert [item.status for item in turns.requests] == [101]
    assert turns.events == ["usage"] * len(turns.seen) + ["close"]


@every_session
@pytest.mark.anyio
async def test_messages_are_the_same_with_and_without_metering(session: Session) -> None:
    """Each message is passed on as the same object, in the same order, both ways."""
    passed: list[list[Message]] = []
    for usage in (True, False):
        messages = [ACCEPT, *map(message_of, session.server), CLOSE]
        seen: list[Message] = []

        async def app(
            scope: Scope,
            receive: Receive,
            send: Send,
            *,
            messages: Sequence[Message] = messages,
            seen: list[Message] = seen,
        ) -> None:
            seen.append(await receive())
            await send(messages[0])
            seen.extend([await receive() for _ in session.client])
            for message in messages[1:]:
                await send(message)

        wrapped = ExchangeMiddleware(app, observers=[Turns()], websocket_usage=usage)
        sent = await connect(wrapped, client=session.client)

        assert all(one is other for one, other in zip(sent, messages, strict=True))
        assert seen == received(*session.client)
        passed.append(sent)

    assert passed[0] == passed[1]


@pytest.mark.anyio
async def test_frame_is_sent_before_it_is_read() -> None:
    """The client has the last frame of a response before observers are notified of it."""
    turns = Turns()
    known: list[int] = []

    await connect(
        metered(proxy(CREATED, DONE, "hi"), turns),
        on_send=lambda message: known.append(len(turns.seen)),
    )

    assert known == [0, 0, 0, 1]


@pytest.mark.anyio
async def test_usage_of_websockets_is_not_metered_by_default() -> None:
    """Without the option, no frame is read."""
    turns = Turns()

    await connect(ExchangeMiddleware(proxy(CREATED, DONE), observers=[turns]))

    assert (turns.seen, turns.errors, turns.events) == ([], [], ["close"])


@pytest.mark.anyio
async def test_inner_middleware_turns_metering_on() -> None:
    """The option is merged as the others: one of the stacked middlewares is enough."""
    outer, inner = Turns(), Turns()

    await connect(
        ExchangeMiddleware(metered(proxy(CREATED, DONE), inner), observers=[outer]),
    )

    assert outer.outcomes == inner.outcomes == [("gpt-5.3-codex", TokenUsage(3, 4), "reported")]


@pytest.mark.anyio
async def test_observer_in_two_middlewares_is_notified_once() -> None:
    """Stacked middlewares share one recorder."""
    turns = Turns()

    await connect(metered(metered(proxy(CREATED, DONE), turns), turns))

    assert len(turns.seen) == 1


@pytest.mark.anyio
async def test_exchange_of_a_response_has_the_facts_of_the_connection() -> None:
    """Route, provider, times, cost and annotations are those of any exchange."""
    turns, clock = Turns(), FakeClock()
    facts = {"tenant": "acme", "tenant_name": "Acme", "api_key": "k1", "credential": "c1"}

    async def chat(websocket: WebSocket) -> None:
        annotate(websocket, **facts)  # type: ignore[arg-type]
        await websocket.accept()
        for frame in (CREATED, text_delta("a"), text_delta("b"), DONE):
            await websocket.send_text(frame)
            clock.advance(1)
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/{vendor}/responses", chat)])
    prices = Prices({"gpt-5*": Rates(input=1, output=2)})
    with TestClient(metered(app, turns, clock=clock, prices=prices)).websocket_connect(
        "/codex/responses"
    ) as websocket:
        for _ in range(4):
            websocket.receive_text()

    [item] = turns.seen
    assert (item.method, item.route, item.status) == ("GET", "/{vendor}/responses", 101)
    assert (item.provider, item.model, item.model_source) == (
        "codex",
        "gpt-5.3-codex",
        "response",
    )
    assert (item.outcome, item.limited) == ("complete", False)
    assert (item.duration, item.time_to_first_token) == (3, 1)
    assert (item.cost_nanos, item.cost_source) == (3_000 + 8_000, "estimated")
    assert {name: getattr(item, name) for name in facts} == facts


@pytest.mark.anyio
async def test_facts_added_after_the_handshake_belong_to_later_responses() -> None:
    """A tenant that authenticates in its first message is known from then on."""
    turns = Turns()

    def add(scope: Scope) -> None:
        annotate(
            scope, tenant="acme", model="declared", usage=TokenUsage(99, 99), cost=Decimal("0.5")
        )

    await connect(metered(proxy(CREATED, DONE, accepted=add), turns))

    [item] = turns.seen
    assert (item.tenant, item.model, item.model_source) == ("acme", "declared", "annotation")
    # Usage and cost are those of each response, and not of the connection.
    assert (item.usage, item.usage_source, item.cost_nanos) == (TokenUsage(3, 4), "reported", None)
    assert turns.requests[0].tenant is None


@pytest.mark.anyio
async def test_facts_after_an_unmetered_handshake_are_ignored() -> None:
    """Without metering, the exchange ends with the handshake."""
    turns = Turns()

    def add(scope: Scope) -> None:
        annotate(scope, tenant="acme")
        recorder = recorder_of(scope)
        assert recorder is not None
        assert recorder.annotations == {}

    await connect(ExchangeMiddleware(proxy(accepted=add), observers=[turns]))

    assert turns.requests[0].tenant is None


@pytest.mark.anyio
async def test_cost_that_the_vendor_reports_takes_precedence() -> None:
    """The vendor's own figure is that of the response."""
    turns = Turns()
    usage = {**responses_usage(read=3, written=4), "cost": 0.25}
    prices = Prices({"gpt-5*": Rates(input=1, output=2)})

    await connect(
        metered(proxy(response("response.completed", "resp_1", usage)), turns, prices=prices)
    )

    assert [(item.cost_nanos, item.cost_source) for item in turns.seen] == [
        (250_000_000, "reported")
    ]


@pytest.mark.parametrize(
    ("path", "model", "provider"),
    [
        ("/openai/deployments/gpt-realtime/chat", "gpt-realtime", "openai"),
        ("/claude/live", None, "claude"),
        ("/live", None, "unknown"),
    ],
)
@pytest.mark.anyio
async def test_model_that_only_the_path_names_is_found(
    path: str, model: str | None, provider: str
) -> None:
    """The path names the model and the provider of a response that names none."""
    turns = Turns()
    done = DONE.replace('"model":"gpt-5.3-codex"', '"model":null')

    await connect(metered(proxy(done), turns), path=path)

    assert [(item.model, item.provider) for item in turns.seen] == [(model, provider)]


@pytest.mark.anyio
async def test_only_declared_provider_has_the_responses_of_its_models() -> None:
    """A single provider is that of every response with a model on a matched route."""

    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(DONE.replace("gpt-5.3-codex", "house-model"))
        await websocket.close()

    turns = Turns()
    app = Starlette(routes=[WebSocketRoute("/live", chat)])
    with TestClient(metered(app, turns, provider=Providers(["mine"]))).websocket_connect("/live"):
        pass

    assert [item.provider for item in turns.seen] == ["mine"]


@pytest.mark.parametrize("frame", [CREATED, model_turn()], ids=["responses", "live"])
@pytest.mark.parametrize(
    ("end", "outcome"),
    [("close", "truncated"), ("return", "truncated"), ("raise", "error")],
)
@pytest.mark.anyio
async def test_response_in_progress_at_the_end_is_cut(frame: Frame, end: str, outcome: str) -> None:
    """A response that the application cuts is missing, with the outcome of the connection."""
    turns = Turns()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(frame, *([CLOSE] if end == "close" else []))(scope, receive, send)
        if end == "raise":
            raise RuntimeError("vendor")

    if end == "raise":
        with pytest.raises(RuntimeError):
            await connect(metered(app, turns))
    else:
        await connect(metered(app, turns))

    assert [(item.usage_source, item.outcome) for item in turns.seen] == [("missing", outcome)]
    assert turns.events == ["usage", "close"]


@pytest.mark.anyio
async def test_response_that_the_client_leaves_is_a_disconnect() -> None:
    """The client hangs up in the middle of a response."""
    turns = Turns()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send(message_of(CREATED))
        await receive()
        await send(message_of(DONE))  # the client does not receive it

    await connect(metered(app, turns), end="websocket.disconnect")

    assert [(item.usage_source, item.outcome) for item in turns.seen] == [
        ("missing", "client_disconnect")
    ]


@pytest.mark.anyio
async def test_send_that_raises_oserror_is_a_disconnect() -> None:
    """A server reports with an OSError that the client has left; that frame is not counted."""
    turns = Turns()

    def fail(message: Message) -> None:
        if message.get("text") == DONE:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await connect(metered(proxy(CREATED, DONE), turns), on_send=fail)

    assert [(item.usage_source, item.outcome) for item in turns.seen] == [
        ("missing", "client_disconnect")
    ]


@pytest.mark.anyio
async def test_client_that_leaves_while_a_frame_is_sent_ends_its_response_once() -> None:
    """A response that has ended with the connection is not counted again by its last frame."""
    turns = Turns()
    scopes: list[Scope] = []

    def leave(message: Message) -> None:
        if message.get("text") == DONE:
            recorder = recorder_of(scopes[0])
            assert isinstance(recorder, WebSocketRecorder)
            recorder.disconnected("client_disconnect")

    await connect(metered(proxy(CREATED, DONE, accepted=scopes.append), turns), on_send=leave)

    assert [(item.usage_source, item.outcome) for item in turns.seen] == [
        ("missing", "client_disconnect")
    ]
    assert turns.events == ["usage", "close"]


@pytest.mark.anyio
async def test_cancelled_connection_is_a_disconnect() -> None:
    """A server may cancel the application when the client has left."""
    turns = Turns()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(CREATED)(scope, receive, send)
        scope["cancel"].cancel()
        await anyio.lowlevel.checkpoint()

    with anyio.CancelScope() as cancel:

        async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
            await metered(app, turns)({**scope, "cancel": cancel}, receive, send)

        await connect(cancelled)

    assert [item.outcome for item in turns.seen] == ["client_disconnect"]


@pytest.mark.anyio
async def test_failed_response_has_the_outcome_error() -> None:
    """A response that the vendor fails is an error of a connection that continues."""
    turns = Turns()

    await connect(metered(proxy(response("response.failed", "resp_1"), DONE), turns))

    assert [item.outcome for item in turns.seen] == ["error", "complete"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("bug"), "gateway"),
        (ConnectionResetError(), "network"),
    ],
)
@pytest.mark.anyio
async def test_fault_of_a_response_that_an_exception_cuts_is_that_of_the_exception(
    error: Exception, expected: str
) -> None:
    """The vendor has reported no error, so the exception of the application decides."""
    turns = Turns()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await proxy(response("response.failed", "resp_0"), CREATED)(scope, receive, send)
        raise error

    with pytest.raises(type(error)):
        await connect(metered(app, turns))

    assert [(item.outcome, item.fault) for item in turns.seen] == [
        ("error", "provider"),
        ("error", expected),
    ]


@pytest.mark.anyio
async def test_buffer_that_the_application_reuses_is_read_as_it_was_sent() -> None:
    """A frame in a buffer is copied, because the application may change it after `send`."""
    turns = Turns()
    buffer = bytearray(DONE.encode())

    def change(message: Message) -> None:
        if message.get("bytes") is buffer:
            buffer[:] = b"x" * len(buffer)

    await connect(
        metered(proxy({"type": "websocket.send", "bytes": buffer}), turns), on_send=change
    )

    assert [item.usage for item in turns.seen] == [TokenUsage(3, 4)]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": None, "bytes": None},
        {"type": "websocket.send", "text": "", "bytes": b"\x00"},
        {"type": "websocket.send", "text": 5},
        {"type": "websocket.send", "bytes": object()},
    ],
    ids=["empty", "null", "no text", "number", "object"],
)
@pytest.mark.anyio
async def test_invalid_message_is_sent_unchanged(message: Message) -> None:
    """A message that a server may reject is passed on, and the next ones are read."""
    turns = Turns()

    sent = await connect(metered(proxy(message, DONE), turns))

    assert sent[1] is message


@pytest.mark.anyio
async def test_unreadable_frame_is_counted_as_an_error() -> None:
    """A frame that cannot be read is counted once, and the next ones are read."""
    turns = Turns()
    metrics = HttpMetrics(CollectorRegistry())

    await connect(metered(proxy(UNREADABLE, UNREADABLE, DONE), turns, metrics))

    labels = {"component": "websocket_usage"}
    assert metrics.registry.get_sample_value("tokenpulse_internal_errors_total", labels) == 2
    assert turns.errors == ["websocket_usage"] * 2
    assert len(turns.seen) == 1


@pytest.mark.parametrize("method", ["feed", "feed_client", "finish"])
@pytest.mark.anyio
async def test_error_of_the_meter_ends_metering_of_the_connection(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of the meter is logged and counted once, and changes no message."""
    turns = Turns()

    def fail(meter: WebSocketMeter, *frames: Frame) -> None:
        raise RuntimeError("meter")

    monkeypatch.setattr(WebSocketMeter, method, fail)
    caplog.set_level(logging.ERROR, "tokenpulse_mw.exchange")

    sent = await connect(metered(proxy(CREATED, CREATED, CLOSE), turns), client=["a", "b"])

    assert sent == [ACCEPT, message_of(CREATED), message_of(CREATED), CLOSE]
    assert (turns.errors, turns.seen) == (["websocket_usage"], [])
    assert [record.args for record in caplog.records] == [("websocket_usage", "RuntimeError")]


@pytest.mark.anyio
async def test_error_of_an_observer_reaches_no_frame() -> None:
    """An observer that raises is counted, and the others are notified."""

    class Failing(Observer):
        def on_websocket_usage(self, exchange: Exchange) -> None:
            raise RuntimeError("observer")

    turns = Turns()

    sent = await connect(metered(proxy(DONE, CLOSE), Failing(), turns))

    assert sent == [ACCEPT, message_of(DONE), CLOSE]
    assert (turns.errors, len(turns.seen)) == (["Failing"], 1)


@pytest.mark.parametrize("part", ["route", "provider", "cost"])
@pytest.mark.anyio
async def test_error_of_a_part_leaves_its_field_empty(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usage counts, too, if its route, its provider or its cost cannot be found."""

    def fail(*args: object) -> Any:
        raise RuntimeError(part)

    turns = Turns()
    prices = Prices({"gpt-5*": Rates(input=1, output=2)})
    app = metered(
        proxy(DONE),
        turns,
        prices=prices,
        provider=Providers(resolver=fail if part == "provider" else lambda scope: "codex"),
    )
    if part == "route":
        monkeypatch.setattr(app._dispatcher, "_template", fail)
    if part == "cost":
        monkeypatch.setattr(Prices, "cost", fail)

    await connect(app)

    [item] = turns.seen
    assert turns.errors.count(part) >= 1
    assert item.usage == TokenUsage(3, 4)
    assert item.route == ("__unmatched__" if part == "route" else "/{path}")
    assert item.provider == ("unknown" if part == "provider" else "codex")
    assert item.cost_source == ("missing" if part == "cost" else "estimated")


@pytest.mark.anyio
async def test_excluded_connection_is_not_metered() -> None:
    """`drop_exchange` keeps a connection out of all statistics."""
    turns = Turns()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await proxy(CREATED, DONE)(scope, receive, send)

    await connect(metered(app, turns))

    assert (turns.seen, turns.requests) == ([], [])


@pytest.mark.parametrize("messages", [[CLOSE], [ACCEPT, CLOSE]], ids=["rejected", "late"])
@pytest.mark.anyio
async def test_connection_without_frames_has_no_response(messages: Sequence[Message]) -> None:
    """A rejected handshake, and one whose client left before, are not metered."""
    turns = Turns()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        for message in messages:
            await send(message)

    await connect(metered(app, turns), end="websocket.disconnect")

    assert (turns.seen, turns.events) == ([], [])


@pytest.mark.anyio
async def test_frames_of_the_client_are_searched_for_a_setup_only_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The meter gets at most four frames of the client, and none after a setup."""
    fed: list[Frame] = []
    feed_client = WebSocketMeter.feed_client

    def count(meter: WebSocketMeter, frame: Frame) -> None:
        fed.append(frame)
        feed_client(meter, frame)

    monkeypatch.setattr(WebSocketMeter, "feed_client", count)

    await connect(metered(proxy()), client=[*"abcdef"])
    await connect(metered(proxy()), client=["", *LIVE.client, "c"])

    assert fed == [*"abcd", LIVE.client[0]]


@pytest.mark.anyio
async def test_usage_callback_is_called_with_each_response() -> None:
    """A rate limit charges each response; its errors are isolated."""
    charged: list[Exchange] = []
    turns = Turns()

    def fail(exchange: Exchange) -> None:
        raise RuntimeError("limit")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        recorder = recorder_of(scope)
        assert add_usage_callback(recorder, fail)
        assert add_usage_callback(recorder, charged.append)
        await proxy(DONE, DONE)(scope, receive, send)
        assert not add_usage_callback(recorder, charged.append)

    await connect(metered(app, turns))

    assert charged == turns.seen
    assert turns.errors == ["fail"] * 2


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.anyio
async def test_usage_callback_needs_a_metered_websocket(kind: str) -> None:
    """HTTP has callbacks of its own, and an unmetered connection has no responses."""
    added: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        added.append(add_usage_callback(recorder_of(scope), print))

    scope = {"type": kind, "path": "/", "method": "GET", "headers": []}

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    await ExchangeMiddleware(app, websocket_usage=kind == "http")(scope, receive, send)

    assert added == [False]
    assert not add_usage_callback(None, print)


@pytest.mark.anyio
async def test_metrics_count_responses_and_one_request() -> None:
    """Responses count in the families of models, and the handshake in those of HTTP."""
    metrics = HttpMetrics(CollectorRegistry())
    missing = response("response.failed", "resp_2")
    app = MetricsMiddleware(
        proxy(CREATED, text_delta("a"), DONE, DONE, missing), metrics=metrics, websocket_usage=True
    )

    await connect(app, path="/codex/responses")

    text = metrics.render().decode()
    labels = 'provider="codex",model="gpt-5.3-codex"'
    assert f'tokenpulse_llm_requests_total{{{labels},usage="reported"}} 2' in text
    assert f'tokenpulse_llm_requests_total{{{labels},usage="missing"}} 1' in text
    assert f'tokenpulse_llm_tokens_total{{{labels},kind="input"}} 6' in text
    assert f'tokenpulse_llm_tokens_total{{{labels},kind="output"}} 8' in text
    assert f"tokenpulse_llm_time_to_first_token_seconds_count{{{labels}}} 1" in text
    [line] = [
        line for line in text.splitlines() if line.startswith("tokenpulse_http_requests_total{")
    ]
    assert line.endswith(" 1.0")
    assert "tokenpulse_http_requests_in_progress 0" in text


@pytest.mark.anyio
async def test_metrics_count_the_cost_of_responses() -> None:
    """The cost of each response is added, as that of HTTP."""
    metrics = HttpMetrics(CollectorRegistry())
    prices = Prices({"gpt-5*": Rates(input=1, output=2)})

    await connect(metered(proxy(DONE, DONE), metrics, prices=prices), path="/codex/responses")

    labels = {"provider": "codex", "model": "gpt-5.3-codex", "source": "estimated"}
    cost = metrics.registry.get_sample_value("tokenpulse_llm_cost_usd_total", labels)
    assert cost == pytest.approx(2 * 11e-6)
