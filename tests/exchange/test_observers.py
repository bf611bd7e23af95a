"""Observers: whatever goes wrong in one stays there."""

from __future__ import annotations

import logging

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Observer
from tokenpulse_mw.exchange import ErrorReporter, drop_exchange

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock


class Watcher:
    """An observer with every hook."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        self.told.append("finished")

    def on_open(self) -> None:
        self.told.append("opened")

    def on_drop(self) -> None:
        self.told.append("dropped")

    def on_error(self, component: str) -> None:
        self.told.append(f"failed {component}")


def broken(exchange: Exchange) -> None:
    """An observer that always raises."""
    raise RuntimeError("no disk")


@pytest.mark.anyio
async def test_hooks_are_called_for_each_exchange() -> None:
    """An observer with the hooks is told when an exchange begins and when it ends."""
    watcher = Watcher()

    await drive(ExchangeMiddleware(answering(), observers=[watcher]))

    assert watcher.told == ["opened", "finished"]


@pytest.mark.anyio
async def test_an_observer_that_joins_is_told_that_an_exchange_has_begun() -> None:
    """The hooks of an inner middleware's observer are called as if it were alone."""
    watcher = Watcher()
    inner = ExchangeMiddleware(answering(), observers=[watcher])

    await drive(ExchangeMiddleware(inner))

    assert watcher.told == ["opened", "finished"]


@pytest.mark.anyio
async def test_an_observer_given_twice_is_told_once() -> None:
    """Two that are equal are one."""
    watcher = Watcher()

    await drive(ExchangeMiddleware(answering(), observers=[watcher, watcher]))

    assert watcher.told == ["opened", "finished"]


@pytest.mark.anyio
async def test_an_observer_that_comes_too_late_is_not_told() -> None:
    """An exchange that is over, or dropped, is neither opened nor finished for it."""
    watcher = Watcher()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await ExchangeMiddleware(answering(), observers=[watcher])(scope, receive, send)

    await drive(ExchangeMiddleware(app))

    assert watcher.told == []


@pytest.mark.anyio
async def test_a_broken_observer_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The answer is whole, other observers are told, and the log has it once, not each time."""
    watcher = Watcher()
    app = ExchangeMiddleware(answering(b"whole"), observers=[broken, watcher])

    with caplog.at_level(logging.ERROR):
        answers = [await drive(app) for _ in range(3)]

    assert [answer.body for answer in answers] == [b"whole"] * 3
    assert watcher.told == ["opened", "failed broken", "finished"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "broken failed with RuntimeError: requests go on without it"
    ]


@pytest.mark.anyio
async def test_a_broken_hook_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged once by its observer's class."""

    class Broken(Watcher):
        def on_open(self) -> None:
            raise KeyError("opened")

    watcher = Broken()
    app = ExchangeMiddleware(answering(), observers=[watcher])

    with caplog.at_level(logging.ERROR):
        await drive(app)
        await drive(app)

    assert watcher.told == ["failed Broken", "finished"] * 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Broken failed with KeyError"
    ]


@pytest.mark.anyio
async def test_one_that_fails_at_being_told_of_failures_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, and no further: there would be no end to it."""

    class Broken(Watcher):
        def on_open(self) -> None:
            raise KeyError("opened")

        def on_error(self, component: str) -> None:
            raise KeyError(component)

    watcher = Watcher()

    await drive(ExchangeMiddleware(answering(), observers=[Broken(), watcher]))

    assert watcher.told == ["failed Broken", "opened", "finished"]
    assert [record.args for record in caplog.records] == [("Broken", "KeyError")]


@pytest.mark.anyio
async def test_a_broken_hook_for_probes_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The probe is answered, and the other observers are told."""

    class Broken(Watcher):
        def on_drop(self) -> None:
            raise KeyError("dropped")

    watcher = Watcher()

    async def probe(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await answering(b"alive")(scope, receive, send)

    answer = await drive(ExchangeMiddleware(probe, observers=[Broken(), watcher]))

    assert answer.body == b"alive"
    assert watcher.told == ["opened", "failed Broken", "dropped"]
    assert [record.args for record in caplog.records] == [("Broken", "KeyError")]


@pytest.mark.anyio
async def test_a_broken_resolver_costs_only_the_label() -> None:
    """A provider function that raises leaves the exchange's provider unknown."""
    watcher, seen = Watcher(), list[Exchange]()

    def resolver(scope: Scope) -> str:
        raise LookupError(scope["path"])

    app = ExchangeMiddleware(answering(), observers=[watcher, seen.append], provider=resolver)

    answer = await drive(app)

    assert (answer.status, seen[0].provider) == (200, "unknown")
    assert "failed provider" in watcher.told


@pytest.mark.anyio
async def test_a_head_that_cannot_be_read_costs_only_the_measurement() -> None:
    """A message that is not quite as ASGI has it goes through as it is."""
    watcher = Watcher()
    app = ExchangeMiddleware(
        answering(headers=[(None, b"x")]),  # type: ignore[list-item]
        observers=[watcher],
    )

    answer = await drive(app)

    assert answer.body == b"{}"
    assert watcher.told == ["opened", "failed exchange", "finished"]


@pytest.mark.anyio
async def test_a_body_that_cannot_be_read_costs_only_its_usage() -> None:
    """What is no bytes at all goes to the server as it is, and the exchange still ends."""
    watcher, seen = Watcher(), list[Exchange]()
    app = ExchangeMiddleware(
        answering("text"),  # type: ignore[arg-type]
        observers=[watcher, seen.append],
    )

    answer = await drive(app, http_scope(method="POST"))

    assert answer.messages[1]["body"] == "text"
    assert (seen[0].outcome, seen[0].usage) == ("complete", None)
    assert watcher.told == ["opened", "failed usage", "finished"]


@pytest.mark.anyio
async def test_a_body_too_long_to_be_read_is_counted() -> None:
    """Over-long and malformed answers of a provider change nothing but a counter."""
    watcher, seen = Watcher(), list[Exchange]()
    long = answering(b'{"a":{"usage":{"prompt_tokens":1}},"text":"' + b"x" * 1024 * 1024 + b'"}')
    app = ExchangeMiddleware(long, observers=[watcher, seen.append])

    await drive(app, http_scope("/claude/v1/messages", method="POST"))

    assert seen[0].usage_source == "missing"
    assert "failed usage" in watcher.told


@pytest.mark.anyio
async def test_a_dropped_exchange_is_not_measured() -> None:
    """A probe is told to the hook `dropped`, and to nobody as an exchange."""
    watcher = Watcher()

    async def probe(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        drop_exchange(scope)

    await drive(ExchangeMiddleware(probe, observers=[watcher]))

    assert watcher.told == ["opened", "dropped"]


def test_failures_are_logged_where_and_as_their_part_says(caplog: pytest.LogCaptureFixture) -> None:
    """What explains itself is a line without a traceback, which is there for debugging."""
    failures = ErrorReporter(
        logger=logging.getLogger("a.part"), continuing="answers", self_explanatory=(LookupError,)
    )

    with caplog.at_level(logging.DEBUG):
        failures.log("disk", OSError("full"))
        failures.log("book", KeyError("no\n  page"))

    assert {each.name for each in caplog.records} == {"a.part"}
    assert [(each.getMessage(), bool(each.exc_info)) for each in caplog.records] == [
        ("disk failed with OSError: answers go on without it", True),
        (
            r"book failed with KeyError: 'no\n page': answers go on without it",
            False,
        ),
        ("book failed here", True),
    ]


def test_kinds_of_failure_that_are_logged_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred components have a line each; the others share one."""
    failures = ErrorReporter()

    with caplog.at_level(logging.ERROR):
        for number in range(150):
            failures.report(f"part-{number}", RuntimeError())

    assert len(caplog.records) == 101


def test_failures_that_end_are_logged_when_they_begin_end_and_return(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A component that recovers is logged with what it had failed with; others still fail."""
    caplog.set_level(logging.INFO)
    failures = ErrorReporter(clock=clock)

    failures.recovered("disk")
    failures.log("disk", OSError("full"))
    failures.log("disk", TimeoutError())
    failures.log("disk", OSError("full"))
    failures.log("net", OSError("down"))
    clock.advance(90)
    failures.recovered("disk")
    failures.recovered("disk")
    failures.log("disk", OSError("full"))

    assert caplog.messages == [
        "disk failed with OSError: requests go on without it",
        "disk failed with TimeoutError: requests go on without it",
        "net failed with OSError: requests go on without it",
        "disk recovered from OSError (seconds=90 failures=2)",
        "disk recovered from TimeoutError (seconds=90 failures=1)",
        "disk failed with OSError: requests go on without it",
    ]


def test_an_observer_that_fails_for_long_is_logged_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A line every ten minutes states how often it has failed since the last one."""
    failures = ErrorReporter(clock=clock)

    for _ in range(601):
        failures.report("Broken", KeyError())
        clock.advance(1)

    assert caplog.messages == [
        "Broken failed with KeyError: requests go on without it",
        "Broken failed with KeyError: requests go on without it (failures=600)",
    ]


class Recording(Observer):
    """An observer that overrides the hooks of the life of an exchange."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_open(self) -> None:
        self.calls.append("open")

    def on_close(self, exchange: Exchange) -> None:
        self.calls.append(f"close {exchange.status}")

    def on_drop(self) -> None:
        self.calls.append("drop")


@pytest.mark.anyio
async def test_observer_subclass_receives_overridden_hooks() -> None:
    """An instance of Observer is notified of the start and the end of an exchange."""
    observer = Recording()

    await drive(ExchangeMiddleware(answering(), observers=[observer]))

    assert observer.calls == ["open", "close 200"]


@pytest.mark.anyio
async def test_observer_without_overrides_ignores_everything() -> None:
    """The hooks of the base class do nothing, also if they are called directly."""
    observer, seen = Observer(), list[Exchange]()

    await drive(ExchangeMiddleware(answering(), observers=[observer, seen.append]))
    observer.on_open()
    observer.on_close(seen[0])
    observer.on_drop()
    observer.on_limit("requests", "allowed")
    observer.on_error("usage")

    assert seen[0].status == 200


@pytest.mark.anyio
async def test_observer_subclass_that_raises_on_close_is_reported() -> None:
    """An error in on_close is reported by class name, and the response is unchanged."""

    class Broken(Observer):
        def on_close(self, exchange: Exchange) -> None:
            raise RuntimeError("no disk")

    watcher = Watcher()
    response = await drive(ExchangeMiddleware(answering(b"whole"), observers=[Broken(), watcher]))

    assert response.body == b"whole"
    assert watcher.told == ["opened", "failed Broken", "finished"]


class Asynchronous(Observer):
    """An observer whose hook is a coroutine function by mistake."""

    async def on_close(self, exchange: Exchange) -> None:  # type: ignore[override]
        """Handle a finished exchange."""


@pytest.mark.parametrize("observer", [Observer, Asynchronous(), object()])
def test_invalid_observer_is_rejected(observer: object) -> None:
    """A class, a coroutine hook, and an object that is not callable raise at construction."""
    with pytest.raises(ValueError, match="observers must be instances of Observer or callables"):
        ExchangeMiddleware(answering(), observers=[observer])  # type: ignore[list-item]
