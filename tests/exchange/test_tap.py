"""The tap: who may look at one exchange, and when they are told that it is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.apps import answering, raising, silent, streaming
from tests.support.asgi import Answer, drive, http_scope
from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics
from tokenpulse_mw.exchange import drop_exchange, tap_of

CHAT = b'{"model":"gpt-demo","usage":{"prompt_tokens":3,"completion_tokens":5}}'


class Watching:
    """A watcher that passes on what it is told."""

    def __init__(
        self,
        finished: Callable[[Exchange], object] = lambda exchange: None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._finished = finished
        self._close = close

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over."""
        self._finished(exchange)

    async def close(self) -> None:
        """The application is gone."""
        await anyio.lowlevel.checkpoint()
        self._close()


def watched(app: ASGIApp, *watchers: Callable[[Exchange], object]) -> ASGIApp:
    """`app`, with `watchers` of the end of each of its exchanges."""

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        tap = tap_of(scope)
        assert tap is not None
        for watcher in watchers:
            tap.watch(Watching(watcher))
        await app(scope, receive, send)

    return watching


async def ask(app: ASGIApp, **more: Any) -> Answer:
    """Ask something that a model may answer."""
    return await drive(app, http_scope(method="POST"), **more)


@pytest.mark.anyio
async def test_a_watcher_is_given_the_exchange_of_its_request() -> None:
    """It is settled: usage and all. The next request has watchers of its own."""
    seen: list[Exchange] = []
    observed: list[Exchange] = []
    inner: list[ASGIApp] = [watched(answering(CHAT), seen.append), answering(CHAT)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await inner.pop(0)(scope, receive, send)

    outer = ExchangeMiddleware(app, observers=[observed.append])
    await ask(outer)
    await ask(outer)

    assert [len(seen), len(observed)] == [1, 2]
    assert seen[0] is observed[0]
    assert seen[0].usage is not None
    assert (seen[0].usage.total, seen[0].route, seen[0].outcome) == (8, "/{path}", "complete")


@pytest.mark.anyio
async def test_watchers_are_told_in_their_order_and_after_the_observers() -> None:
    """At the last byte, and not when the application is done with its background tasks."""
    told: list[str] = []

    async def works_on(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        told.append("in the background")

    app = watched(works_on, lambda each: told.append("first"), lambda each: told.append("second"))
    await ask(ExchangeMiddleware(app, observers=[lambda each: told.append("observer")]))

    assert told == ["observer", "first", "second", "in the background"]


@pytest.mark.parametrize(
    ("app", "outcome", "status"),
    [
        (raising, "error", 500),
        (silent, "error", 500),
        (streaming([b"a"], ends=False), "truncated", 200),
        (answering(status=404), "complete", 404),
    ],
    ids=["raising", "silent", "truncated", "complete"],
)
@pytest.mark.anyio
async def test_a_watcher_is_told_once_however_it_ends(
    app: ASGIApp, outcome: str, status: int
) -> None:
    """Complete or not, with an answer or without."""
    seen: list[Exchange] = []

    await ask(ExchangeMiddleware(watched(app, seen.append)))

    assert [(each.outcome, each.status) for each in seen] == [(outcome, status)]


@pytest.mark.anyio
async def test_a_watcher_is_told_of_a_cancelled_request() -> None:
    """Which is how a server ends the request of a client that has left."""
    seen: list[Exchange] = []

    with anyio.CancelScope() as whole:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            whole.cancel()
            await anyio.sleep_forever()

        await ask(ExchangeMiddleware(watched(app, seen.append)))

    assert [(each.outcome, each.status) for each in seen] == [("client_disconnect", 499)]


@pytest.mark.anyio
async def test_a_dropped_exchange_still_has_watchers() -> None:
    """What they hold has to be given back; observers are told that it was dropped, and no more."""
    seen: list[Exchange] = []
    observed: list[Exchange] = []

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await answering(CHAT)(scope, receive, send)

    await ask(ExchangeMiddleware(watched(dropping, seen.append), observers=[observed.append]))

    assert [(each.status, each.outcome) for each in seen] == [(200, "complete")]
    assert seen[0].usage is not None
    assert observed == []


@pytest.mark.anyio
async def test_nobody_joins_a_dropped_exchange(metrics: HttpMetrics) -> None:
    """A probe that has watchers goes on, and is still no traffic to those inside."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(CHAT), observers=[metrics, seen.append])

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await inner(scope, receive, send)

    await ask(ExchangeMiddleware(watched(dropping, lambda each: None), observers=[metrics]))

    assert seen == []
    assert b"tokenpulse_http_requests_in_progress 0.0\n" in metrics.render()


@pytest.mark.anyio
async def test_nothing_is_told_of_an_exchange_that_is_over() -> None:
    """Who comes too late has nothing to wait for."""
    seen: list[Exchange] = []

    async def too_late(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        await watched(silent, seen.append)(scope, receive, send)

    await ask(ExchangeMiddleware(too_late))

    assert seen == []


@pytest.mark.parametrize(
    "app", [answering(b"whole"), raising, silent], ids=["whole", "raising", "silent"]
)
@pytest.mark.anyio
async def test_a_watcher_may_take_time_when_the_application_is_gone(app: ASGIApp) -> None:
    """It is closed last, also where the request was cancelled meanwhile."""
    told: list[str] = []

    with anyio.CancelScope() as whole:

        async def watching(scope: Scope, receive: Receive, send: Send) -> None:
            tap = tap_of(scope)
            assert tap is not None
            tap.watch(Watching(lambda exchange: told.append("over"), lambda: told.append("closed")))
            try:
                await app(scope, receive, send)
            finally:
                whole.cancel()
                told.append("gone")

        await ask(ExchangeMiddleware(watching))

    assert sorted(told) == ["closed", "gone", "over"]
    assert told[-1] == "closed"


@pytest.mark.anyio
async def test_a_watcher_that_fails_harms_nobody(
    caplog: pytest.LogCaptureFixture, metrics: HttpMetrics
) -> None:
    """The answer is whole, the next watcher is told, the log has it once, and it is counted."""
    seen: list[Exchange] = []

    def fails(*exchange: Exchange) -> None:
        raise RuntimeError("no disk")

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        tap = tap_of(scope)
        assert tap is not None
        for watcher in (Watching(fails, fails), Watching(seen.append)):
            tap.watch(watcher)
        await answering(b"whole")(scope, receive, send)

    app = ExchangeMiddleware(watching, observers=[metrics])
    with caplog.at_level(logging.ERROR):
        answers = [await ask(app) for _ in range(2)]

    assert [(answer.body, answer.error) for answer in answers] == [(b"whole", None)] * 2
    assert len(seen) == 2
    assert [record.args for record in caplog.records] == [("Watching", "RuntimeError")]
    failed = {"component": "Watching"}
    assert metrics.registry.get_sample_value("tokenpulse_self_errors_total", failed) == 4
