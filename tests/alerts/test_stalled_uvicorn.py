"""Requests that hang, and a stream that moves, on uvicorn with an injected clock."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.to_thread
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tokenpulse_mw import AlertEngine, ExchangeMiddleware, Providers
from tokenpulse_mw.alerts import stalled_request
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.exchange import RequestsInProgress

from ..support.apps import WORDS
from ..support.clock import FakeClock
from ..support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


class Vendor:
    """A gateway to a vendor whose responses the test controls."""

    def __init__(self, clock: FakeClock) -> None:
        self.in_progress = RequestsInProgress(clock=clock)
        self.sent = 0
        self._go_on = threading.Event()
        self._next = threading.Semaphore(0)
        self.app = Starlette(
            routes=[
                Route("/claude/hanging", self._hang, methods=["POST"]),
                Route("/claude/stream", self._stream, methods=["POST"]),
            ],
            middleware=[
                Middleware(
                    ExchangeMiddleware,
                    provider=Providers(["claude"]),
                    in_progress=self.in_progress,
                    clock=clock,
                )
            ],
        )

    def send_chunk(self) -> None:
        """Have the stream send a chunk, and wait until it was sent."""
        sent = self.sent
        self._next.release()
        wait_until(lambda: self.sent > sent)

    def end(self) -> None:
        """End all responses."""
        self._go_on.set()
        self._next.release()

    async def _hang(self, request: Request) -> Response:
        await anyio.to_thread.run_sync(self._go_on.wait, PATIENCE)
        return JSONResponse({})

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self._chunks(), media_type="text/event-stream")

    async def _chunks(self) -> AsyncIterator[bytes]:
        while not self._go_on.is_set():
            yield WORDS[0]
            self.sent += 1
            await anyio.to_thread.run_sync(lambda: self._next.acquire(timeout=PATIENCE))


def in_thread(function: Callable[[], object]) -> threading.Thread:
    """Run `function` in a thread."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_hung_request_fires_within_one_evaluation_and_resolves(clock: FakeClock) -> None:
    """The alert names route and provider, and ends with the request."""
    vendor = Vendor(clock)
    engine = AlertEngine([stalled_request(vendor.in_progress)], sinks=[], clock=clock)

    with LocalServer(vendor.app) as server:
        client = in_thread(
            lambda: httpx2.post(f"{server.url}/claude/hanging", timeout=PATIENCE, trust_env=False)
        )
        wait_until(lambda: len(vendor.in_progress) == 1)
        clock.advance(599)
        assert await engine.evaluate() == []
        clock.advance(1)
        fired = await engine.evaluate()
        assert await engine.evaluate() == []
        vendor.end()
        client.join(PATIENCE)
    clock.advance(60)
    await engine.evaluate()
    clock.advance(301)
    resolved = await engine.evaluate()

    fingerprint = "stalled_request:waiting:claude:route:/claude/hanging"
    assert [(event.transition, event.fingerprint) for event in fired] == [("fired", fingerprint)]
    assert [event.transition for event in resolved] == ["resolved"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_stream_of_thirty_minutes_that_moves_does_not_fire(clock: FakeClock) -> None:
    """Its age does not matter; once it stops, it fires within one evaluation."""
    vendor = Vendor(clock)
    engine = AlertEngine([stalled_request(vendor.in_progress)], sinks=[], clock=clock)

    with LocalServer(vendor.app) as server:
        client = in_thread(
            lambda: httpx2.post(f"{server.url}/claude/stream", timeout=PATIENCE, trust_env=False)
        )
        wait_until(lambda: vendor.sent == 1)
        for _ in range(30):
            clock.advance(60)
            vendor.send_chunk()
            assert await engine.evaluate() == []
        assert vendor.in_progress.oldest() == 1800
        clock.advance(120)
        fired = await engine.evaluate()
        vendor.end()
        client.join(PATIENCE)

    assert [event.fingerprint for event in fired] == [
        "stalled_request:streaming:claude:route:/claude/stream"
    ]
