"""Something of ours, for as long as an application lives."""

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
from tokenpulse_mw.lifespan import run_lifespan

from .support.apps import answering
from .support.waiting import PATIENCE


async def live(app: ASGIApp, story: list[str] | None = None) -> list[str]:
    """Start and stop `app` as a server does; what happened, in order."""
    story = [] if story is None else story
    coming = ["lifespan.startup", "lifespan.shutdown"]

    @asynccontextmanager
    async def beside() -> AsyncIterator[None]:
        story.append("ours begins")
        yield
        story.append("ours ends")

    async def receive() -> Message:
        return {"type": coming.pop(0)}

    async def send(message: Message) -> None:
        story.append(message["type"].removeprefix("lifespan."))

    await run_lifespan(app, beside, {"type": "lifespan", "state": {}}, receive, send)
    return story


@pytest.mark.anyio
async def test_the_applications_own_runs_inside_ours() -> None:
    """It is kept, and ours begins before it and ends after it."""
    app = Starlette()

    assert await live(app) == ["ours begins", "startup.complete", "shutdown.complete", "ours ends"]


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that knows only HTTP."""
    raise AssertionError(scope["type"])


async def asks_and_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that takes every message for a request."""
    message = await receive()
    raise KeyError(message["type"])


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that passes over what it does not know."""


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers whatever comes, such as the quickstart's vendor."""
    await answering()(scope, receive, send)


async def reads_and_answers(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, after it has read the body."""
    while (await receive()).get("more_body"):
        pass
    await answering()(scope, receive, send)


@pytest.mark.parametrize("app", [raises, asks_and_raises, returns, answers, reads_and_answers])
@pytest.mark.anyio
async def test_an_application_without_a_lifespan_is_spoken_for(
    app: Callable[[Scope, Receive, Send], object],
) -> None:
    """Ours runs for as long as the server does, although the application has none."""
    assert await live(app) == [  # type: ignore[arg-type]
        "ours begins",
        "startup.complete",
        "ours ends",
        "shutdown.complete",
    ]


@pytest.mark.parametrize("app", [answers, reads_and_answers])
def test_an_application_that_takes_its_lifespan_for_a_request_is_served(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    """By a real server, which would refuse such an answer, and with nothing said in the log."""
    settings = Settings(drain_delay=0)  # there is no server that would take a SIGTERM
    pulse = TokenPulse(settings=settings, metrics=HttpMetrics(CollectorRegistry()))
    lifespan = LifespanOn(Config(pulse.wrap(app), log_config=None))

    async def serve() -> None:
        with anyio.fail_after(PATIENCE):
            await lifespan.startup()
            await lifespan.shutdown()

    asyncio.run(serve())

    assert not lifespan.should_exit
    assert not [each for each in caplog.records if each.levelname != "INFO"]


@pytest.mark.anyio
async def test_an_application_that_returns_once_it_has_started_is_spoken_for() -> None:
    """Ours goes on until the server shuts down, and answers in the application's place."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    assert await live(app) == ["ours begins", "startup.complete", "ours ends", "shutdown.complete"]


@pytest.mark.anyio
async def test_a_start_that_was_refused_ends_ours_too() -> None:
    """An application that says that it failed has the last word."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    assert await live(app) == ["ours begins", "startup.failed", "ours ends"]


@pytest.mark.anyio
async def test_an_application_that_raises_after_it_was_asked_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may be one without lifespans, or a start that failed: whoever reads the log can tell."""
    await live(asks_and_raises)

    assert caplog.messages == ["application raised in its lifespan"]
    assert "KeyError: 'lifespan.startup'" in caplog.text


@pytest.mark.anyio
async def test_a_lifespan_that_breaks_off_is_heard_of_when_the_server_ends() -> None:
    """The server serves on, so ours goes on as well; then the error is raised as it was."""
    story: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("lost the database")

    with pytest.raises(RuntimeError, match="lost the database"):
        await live(app, story)
    assert story == ["ours begins", "startup.complete", "ours ends"]


@pytest.mark.anyio
async def test_a_lifespan_that_fails_is_the_servers_to_hear_of() -> None:
    """An application that said that it failed is not spoken for."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        await live(app)
