"""What the exchanges of one middleware share, and how another one joins in."""

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
    """An observer that wants to know what rate limits decide."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.exchanges: list[Exchange] = []
        self.opened_count = 0

    def __call__(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def on_open(self) -> None:
        self.opened_count += 1

    def on_limit(self, policy: str, decision: str) -> None:
        self.told.append((policy, decision))


async def deciding(scope: Scope, receive: Receive, send: Send) -> None:
    """Decides, as a rate limit does, and answers."""
    tap = recorder_of(scope)
    assert tap is not None
    tap.dispatcher.on_limit("minute", "allowed")
    tap.dispatcher.on_limit("day", "shadow")
    await answering(CHAT)(scope, receive, send)


@pytest.mark.anyio
async def test_observers_that_want_to_know_are_told_of_decisions() -> None:
    """Those without the hook are not asked to have it."""
    counter, seen = Counter(), list[Exchange]()

    await drive(ExchangeMiddleware(deciding, observers=[counter, seen.append]))

    assert counter.told == [("minute", "allowed"), ("day", "shadow")]
    assert len(seen) == 1


@pytest.mark.anyio
async def test_a_decision_that_cannot_be_told_changes_nothing(
    caplog: pytest.LogCaptureFixture, metrics: HttpMetrics
) -> None:
    """A hook that raises is logged once; the other observers are told, and the answer is whole."""

    class Broken(Counter):
        def on_limit(self, policy: str, decision: str) -> None:
            raise KeyError(policy)

    app = ExchangeMiddleware(deciding, observers=[Broken(), metrics])
    with caplog.at_level(logging.ERROR):
        answers = [await drive(app) for _ in range(2)]

    assert [answer.body for answer in answers] == [CHAT] * 2
    assert [record.args for record in caplog.records] == [("Broken", "KeyError")]
    counted = metrics.registry.get_sample_value(
        "tokenpulse_rate_limit_decisions_total", {"policy": "day", "decision": "shadow"}
    )
    assert counted == 2


@pytest.mark.anyio
async def test_an_observer_that_joined_is_told_of_decisions_too() -> None:
    """Of those that are made from then on."""
    outer, inner = Counter(), Counter()

    await drive(
        ExchangeMiddleware(ExchangeMiddleware(deciding, observers=[inner]), observers=[outer])
    )

    assert outer.told == inner.told == [("minute", "allowed"), ("day", "shadow")]


@pytest.mark.anyio
async def test_joining_adds_observers_to_the_exchange_that_is_open() -> None:
    """For each request anew: its observers are told of the beginning and of the end, once."""
    counter, joined = Counter(), list[bool]()
    guest = ExchangeMiddleware(answering(), observers=[counter])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        joined.extend([guest.join(scope), guest.join(scope)])
        await answering()(scope, receive, send)

    outer = ExchangeMiddleware(app)
    await drive(outer)
    await drive(outer)

    assert joined == [True] * 4
    assert (counter.opened_count, len(counter.exchanges)) == (2, 2)


@pytest.mark.anyio
async def test_there_is_nothing_to_join_without_an_exchange() -> None:
    """Whoever asks is told so, nobody else is, and the scope stays as it is."""
    counter, joined = Counter(), list[bool]()
    guest = ExchangeMiddleware(answering(), observers=[counter])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        joined.append(guest.join(scope))
        await answering()(scope, receive, send)

    await drive(app, scope := http_scope())

    assert (joined, counter.opened_count, counter.exchanges) == ([False], 0, [])
    assert scope == http_scope()


@pytest.mark.anyio
async def test_whoever_joins_may_wish_for_usage() -> None:
    """An exchange that was opened without is metered from then on, for all its observers."""
    seen: list[Exchange] = []
    guest = ExchangeMiddleware(answering())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        guest.join(scope)
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
async def test_usage_is_missing_where_a_model_answered(
    path: str, body: bytes, source: str | None
) -> None:
    """As the answer shows; where it cannot be read, its provider decides."""
    seen: list[Exchange] = []

    app = ExchangeMiddleware(answering(body), observers=[seen.append])
    await drive(app, http_scope(path, method="POST"))

    assert seen[0].usage_source == source
