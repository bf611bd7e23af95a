"""Lifespan of an application inside a context of this library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.lifespan.on import LifespanOn

from tokenpulse_mw import HttpMetrics, Settings, TokenPulse
from tokenpulse_mw.lifespan import LoopLock, run_lifespan

from .support.apps import answering
from .support.waiting import PATIENCE


async def run(app: ASGIApp, events: list[str] | None = None) -> list[str]:
    """Start and stop `app` as a server does; return the events in order."""
    events = [] if events is None else events
    messages = ["lifespan.startup", "lifespan.shutdown"]

    @asynccontextmanager
    async def context() -> AsyncIterator[None]:
        events.append("context begins")
        yield
        events.append("context ends")

    async def receive() -> Message:
        return {"type": messages.pop(0)}

    async def send(message: Message) -> None:
        events.append(message["type"].removeprefix("lifespan."))

    await run_lifespan(app, context, {"type": "lifespan", "state": {}}, receive, send)
    return events


@pytest.mark.anyio
async def test_lifespan_of_the_application_runs_inside_the_context() -> None:
    """The context begins before the lifespan of the application and ends after it."""
    app = Starlette()

    assert await run(app) == [
        "context begins",
        "startup.complete",
        "shutdown.complete",
        "context ends",
    ]


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise on a scope other than HTTP."""
    raise AssertionError(scope["type"])


async def receives_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive a message, and raise on its type."""
    message = await receive()
    raise KeyError(message["type"])


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """Ignore an unknown scope."""


async def responds(scope: Scope, receive: Receive, send: Send) -> None:
    """Send an HTTP response to every scope."""
    await answering()(scope, receive, send)


async def receives_and_responds(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive a body, and send an HTTP response to every scope."""
    while (await receive()).get("more_body"):
        pass
    await answering()(scope, receive, send)


@pytest.mark.parametrize(
    "app", [raises, receives_and_raises, returns, responds, receives_and_responds]
)
@pytest.mark.anyio
async def test_application_without_a_lifespan_is_completed(
    app: Callable[[Scope, Receive, Send], object],
) -> None:
    """The context stays open until the server shuts down, although the application returned."""
    assert await run(app) == [  # type: ignore[arg-type]
        "context begins",
        "startup.complete",
        "context ends",
        "shutdown.complete",
    ]


@pytest.mark.parametrize("app", [responds, receives_and_responds])
def test_application_that_responds_to_its_lifespan_starts_on_uvicorn(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Uvicorn starts it without warnings, although it rejects HTTP messages in a lifespan."""
    settings = Settings(drain_delay=0)  # without a server, no SIGTERM arrives
    pulse = TokenPulse(settings=settings, metrics=HttpMetrics(CollectorRegistry()))
    lifespan = LifespanOn(Config(pulse.wrap(app), log_config=None))

    async def serve() -> None:
        with anyio.fail_after(PATIENCE):
            await lifespan.startup()
            await lifespan.shutdown()

    asyncio.run(serve())

    assert not lifespan.should_exit
    assert not [record for record in caplog.records if record.levelname != "INFO"]


@pytest.mark.anyio
async def test_application_that_returns_after_startup_is_completed() -> None:
    """The context stays open until the shutdown, which is completed for the application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    assert await run(app) == [
        "context begins",
        "startup.complete",
        "context ends",
        "shutdown.complete",
    ]


@pytest.mark.anyio
async def test_failed_startup_ends_the_context() -> None:
    """No message follows the `lifespan.startup.failed` of the application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    assert await run(app) == ["context begins", "startup.failed", "context ends"]


@pytest.mark.anyio
async def test_application_that_raises_on_startup_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the traceback, because the application may have failed to start."""
    await run(receives_and_raises)

    assert caplog.messages == ["application raised in its lifespan"]
    assert "KeyError: 'lifespan.startup'" in caplog.text


@pytest.mark.anyio
async def test_error_after_startup_is_raised_at_shutdown() -> None:
    """The context stays open until the shutdown, and then the error is raised."""
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("lost the database")

    with pytest.raises(RuntimeError, match="lost the database"):
        await run(app, events)
    assert events == ["context begins", "startup.complete", "context ends"]


@pytest.mark.anyio
async def test_error_after_a_failed_startup_is_raised() -> None:
    """An error after `lifespan.startup.failed` is raised at once."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        await run(app)


def test_lock_is_that_of_the_running_event_loop() -> None:
    """A lock that was used in one event loop can be used in the next, on asyncio and trio."""
    lock = LoopLock()

    async def use() -> bool:
        async with lock():
            assert lock() is lock()
            return lock().locked()

    assert all(anyio.run(use, backend=name) for name in ("asyncio", "trio", "asyncio"))
