"""Observers and options that stacked middlewares share."""

from __future__ import annotations

import logging

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics, TokenUsage
from tokenpulse_mw.exchange import recorder_of

from ..support.apps import answering
from ..support.asgi import drive, http_scope

CHAT = b'{"model":"gpt-demo","usage":{"prompt_tokens":3,"completion_tokens":5}}'


class Counter:
    """An observer that records exchanges and the decisions of rate limits."""

    def __init__(self) -> None:
        self.decisions: list[tuple[str, str]] = []
        self.exchanges: list[Exchange] = []
        self.opened_count = 0

    def __call__(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def on_open(self) -> None:
        self.opened_count += 1

    def on_limit(self, policy: str, decision: str) -> None:
        self.decisions.append((policy, decision))


async def deciding(scope: Scope, receive: Receive, send: Send) -> None:
    """Report two decisions as a rate limit does, and respond."""
    recorder = recorder_of(scope)
    assert recorder is not None
    recorder.dispatcher.on_limit("minute", "allowed")
    recorder.dispatcher.on_limit("day", "shadow")
    await answering(CHAT)(scope, receive, send)


@pytest.mark.anyio
async def test_decision_notifies_observers_with_the_hook() -> None:
    """Only observers with `on_limit` are notified of the decisions of rate limits."""
    counter, seen = Counter(), list[Exchange]()

    await drive(ExchangeMiddleware(deciding, observers=[counter, seen.append]))

    assert counter.decisions == [("minute", "allowed"), ("day", "shadow")]
    assert len(seen) == 1


@pytest.mark.anyio
async def test_on_limit_that_raises_is_logged_once(
    caplog: pytest.LogCaptureFixture, metrics: HttpMetrics
) -> None:
    """An error in `on_limit` changes neither the response nor the notification of others."""

    class Broken(Counter):
        def on_limit(self, policy: str, decision: str) -> None:
            raise KeyError(policy)

    app = ExchangeMiddleware(deciding, observers=[Broken(), metrics])
    with caplog.at_level(logging.ERROR):
        responses = [await drive(app) for _ in range(2)]

    assert [response.body for response in responses] == [CHAT] * 2
    assert [record.args for record in caplog.records] == [("Broken", "KeyError")]
    decisions = metrics.registry.get_sample_value(
        "tokenpulse_rate_limit_decisions_total", {"policy": "day", "decision": "shadow"}
    )
    assert decisions == 2


@pytest.mark.anyio
async def test_decision_notifies_observers_of_inner_middlewares() -> None:
    """Observers of an inner middleware are notified of later decisions."""
    outer, inner = Counter(), Counter()

    await drive(
        ExchangeMiddleware(ExchangeMiddleware(deciding, observers=[inner]), observers=[outer])
    )

    assert outer.decisions == inner.decisions == [("minute", "allowed"), ("day", "shadow")]


@pytest.mark.anyio
async def test_join_adds_the_observers_to_each_open_exchange() -> None:
    """Joined observers are notified of the start and the end once for each request."""
    counter, joined = Counter(), list[bool]()
    inner = ExchangeMiddleware(answering(), observers=[counter])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        joined.extend([inner.join(scope), inner.join(scope)])
        await answering()(scope, receive, send)

    outer = ExchangeMiddleware(app)
    await drive(outer)
    await drive(outer)

    assert joined == [True] * 4
    assert (counter.opened_count, len(counter.exchanges)) == (2, 2)


@pytest.mark.anyio
async def test_join_without_an_exchange_returns_false() -> None:
    """Without an open exchange, join() notifies no observer and leaves the scope unchanged."""
    counter, joined = Counter(), list[bool]()
    inner = ExchangeMiddleware(answering(), observers=[counter])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        joined.append(inner.join(scope))
        await answering()(scope, receive, send)

    await drive(app, scope := http_scope())

    assert (joined, counter.opened_count, counter.exchanges) == ([False], 0, [])
    assert scope == http_scope()


@pytest.mark.anyio
async def test_join_with_usage_meters_the_exchange() -> None:
    """An exchange that was opened with `usage=False` is metered if a joined one meters."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inner.join(scope)
        await answering(CHAT)(scope, receive, send)

    outer = ExchangeMiddleware(app, observers=[seen.append], usage=False)
    await drive(outer, http_scope(method="POST"))

    assert seen[0].usage == TokenUsage(input=3, output=5)


@pytest.mark.parametrize(
    ("path", "body", "source"),
    [
        ("/v1/chat", b'{"model":"llama","choices":[{"message":{"content":"hi"}}]}', "missing"),
        ("/v1/chat", b'{"ok":true}', None),
        ("/claude/v1/messages/count_tokens", b'{"input_tokens":5}', None),
        ("/claude/v1/messages", b'{"model":"opus","content":[]}', "missing"),
        ("/claude/v1/messages", b"{", "missing"),
        ("/v1/chat", b"{", None),
    ],
)
@pytest.mark.anyio
async def test_usage_is_missing_only_if_a_model_responded(
    path: str, body: bytes, source: str | None
) -> None:
    """The response shows if a model responded; if it is unreadable, the provider decides."""
    seen: list[Exchange] = []

    app = ExchangeMiddleware(answering(body), observers=[seen.append])
    await drive(app, http_scope(path, method="POST"))

    assert seen[0].usage_source == source
