"""Observers of exchanges, and isolation of their errors."""

from __future__ import annotations

import logging

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Observer
from tokenpulse_mw.exchange import ErrorReporter, drop_exchange

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock


class RecordingObserver:
    """An observer with every hook, which records the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        self.calls.append("finished")

    def on_open(self) -> None:
        self.calls.append("opened")

    def on_drop(self) -> None:
        self.calls.append("dropped")

    def on_error(self, component: str) -> None:
        self.calls.append(f"failed {component}")


def broken(exchange: Exchange) -> None:
    """Raise, as an observer with a bug does."""
    raise RuntimeError("disk full")


@pytest.mark.anyio
async def test_hooks_are_called_at_start_and_end() -> None:
    """Hooks of a callable observer are called at the start and the end of an exchange."""
    observer = RecordingObserver()

    await drive(ExchangeMiddleware(answering(), observers=[observer]))

    assert observer.calls == ["opened", "finished"]


@pytest.mark.anyio
async def test_joined_observer_is_notified_of_the_start() -> None:
    """The hooks of an inner middleware's observer are called as if it were alone."""
    observer = RecordingObserver()
    inner = ExchangeMiddleware(answering(), observers=[observer])

    await drive(ExchangeMiddleware(inner))

    assert observer.calls == ["opened", "finished"]


@pytest.mark.anyio
async def test_duplicate_observer_is_notified_once() -> None:
    """Equal observers are notified once."""
    observer = RecordingObserver()

    await drive(ExchangeMiddleware(answering(), observers=[observer, observer]))

    assert observer.calls == ["opened", "finished"]


@pytest.mark.anyio
async def test_observer_that_joins_a_dropped_exchange_is_not_notified() -> None:
    """A dropped exchange has neither a start nor an end for an observer that joins later."""
    observer = RecordingObserver()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await ExchangeMiddleware(answering(), observers=[observer])(scope, receive, send)

    await drive(ExchangeMiddleware(app))

    assert observer.calls == []


@pytest.mark.anyio
async def test_observer_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The response is complete, other observers are notified, and one line is logged."""
    observer = RecordingObserver()
    app = ExchangeMiddleware(answering(b"whole"), observers=[broken, observer])

    with caplog.at_level(logging.ERROR):
        responses = [await drive(app) for _ in range(3)]

    assert [response.body for response in responses] == [b"whole"] * 3
    assert observer.calls == ["opened", "failed broken", "finished"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "broken failed with RuntimeError: requests continue without it"
    ]


@pytest.mark.anyio
async def test_on_open_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged with the name of the observer's class."""

    class Broken(RecordingObserver):
        def on_open(self) -> None:
            raise KeyError("opened")

    observer = Broken()
    app = ExchangeMiddleware(answering(), observers=[observer])

    with caplog.at_level(logging.ERROR):
        await drive(app)
        await drive(app)

    assert observer.calls == ["failed Broken", "finished"] * 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Broken failed with KeyError"
    ]


@pytest.mark.anyio
async def test_on_error_that_raises_is_logged_without_recursion(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in `on_error` is logged, but not reported to observers again."""

    class Broken(RecordingObserver):
        def on_open(self) -> None:
            raise KeyError("opened")

        def on_error(self, component: str) -> None:
            raise KeyError(component)

    observer = RecordingObserver()

    await drive(ExchangeMiddleware(answering(), observers=[Broken(), observer]))

    assert observer.calls == ["failed Broken", "opened", "finished"]
    assert [record.args for record in caplog.records] == [("Broken", "KeyError")]


@pytest.mark.anyio
async def test_on_drop_that_raises_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The response is complete, and the other observers are notified."""

    class Broken(RecordingObserver):
        def on_drop(self) -> None:
            raise KeyError("dropped")

    observer = RecordingObserver()

    async def probe(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await answering(b"alive")(scope, receive, send)

    response = await drive(ExchangeMiddleware(probe, observers=[Broken(), observer]))

    assert response.body == b"alive"
    assert observer.calls == ["opened", "failed Broken", "dropped"]
    assert [record.args for record in caplog.records] == [("Broken", "KeyError")]


@pytest.mark.anyio
async def test_provider_function_that_raises_leaves_the_provider_unknown() -> None:
    """The provider is `unknown` if its function raises, and the request continues."""
    observer, seen = RecordingObserver(), list[Exchange]()

    def resolver(scope: Scope) -> str:
        raise LookupError(scope["path"])

    app = ExchangeMiddleware(answering(), observers=[observer, seen.append], provider=resolver)

    response = await drive(app)

    assert (response.status, seen[0].provider) == (200, "unknown")
    assert "failed provider" in observer.calls


@pytest.mark.anyio
async def test_headers_that_cannot_be_read_are_sent_unchanged() -> None:
    """An invalid response start is sent unchanged, and its error is reported."""
    observer = RecordingObserver()
    app = ExchangeMiddleware(
        answering(headers=[(None, b"x")]),  # type: ignore[list-item]
        observers=[observer],
    )

    response = await drive(app)

    assert response.body == b"{}"
    assert observer.calls == ["opened", "failed exchange", "finished"]


@pytest.mark.anyio
async def test_body_that_is_not_bytes_is_sent_unchanged() -> None:
    """An invalid body is sent unchanged, and the exchange ends without usage."""
    observer, seen = RecordingObserver(), list[Exchange]()
    app = ExchangeMiddleware(
        answering("text"),  # type: ignore[arg-type]
        observers=[observer, seen.append],
    )

    response = await drive(app, http_scope(method="POST"))

    assert response.messages[1]["body"] == "text"
    assert (seen[0].outcome, seen[0].usage) == ("complete", None)
    assert observer.calls == ["opened", "failed usage", "finished"]


@pytest.mark.anyio
async def test_body_too_long_to_be_metered_is_reported() -> None:
    """The usage of an over-long response is missing, and counted as an error."""
    observer, seen = RecordingObserver(), list[Exchange]()
    long = answering(b'{"a":{"usage":{"prompt_tokens":1}},"text":"' + b"x" * 1024 * 1024 + b'"}')
    app = ExchangeMiddleware(long, observers=[observer, seen.append])

    await drive(app, http_scope("/claude/v1/messages", method="POST"))

    assert seen[0].usage_source == "missing"
    assert "failed usage" in observer.calls


@pytest.mark.anyio
async def test_dropped_exchange_notifies_on_drop_once() -> None:
    """A dropped exchange calls `on_drop` once and no other hook at its end."""
    observer = RecordingObserver()

    async def probe(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        drop_exchange(scope)

    await drive(ExchangeMiddleware(probe, observers=[observer]))

    assert observer.calls == ["opened", "dropped"]


def test_error_reporter_logs_with_its_logger_and_tracebacks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Self-explanatory errors are logged without a traceback, which is logged as DEBUG."""
    reporter = ErrorReporter(
        logger=logging.getLogger("a.part"), continuing="responses", self_explanatory=(LookupError,)
    )

    with caplog.at_level(logging.DEBUG):
        reporter.log("disk", OSError("full"))
        reporter.log("book", KeyError("no\n  page"))

    assert {record.name for record in caplog.records} == {"a.part"}
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("disk failed with OSError: responses continue without it", True),
        (
            r"book failed with KeyError: 'no\n page': responses continue without it",
            False,
        ),
        ("traceback of book", True),
    ]


def test_error_reporter_bounds_the_number_of_outages(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred components have a log line each; the others share one."""
    reporter = ErrorReporter()

    with caplog.at_level(logging.ERROR):
        for number in range(150):
            reporter.report(f"part-{number}", RuntimeError())

    assert len(caplog.records) == 101


def test_error_reporter_logs_recovery_and_recurrence(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A recovery is logged for each error type of the component, and a recurrence again."""
    caplog.set_level(logging.INFO)
    reporter = ErrorReporter(clock=clock)

    reporter.recovered("disk")
    reporter.log("disk", OSError("full"))
    reporter.log("disk", TimeoutError())
    reporter.log("disk", OSError("full"))
    reporter.log("net", OSError("down"))
    clock.advance(90)
    reporter.recovered("disk")
    reporter.recovered("disk")
    reporter.log("disk", OSError("full"))

    assert caplog.messages == [
        "disk failed with OSError: requests continue without it",
        "disk failed with TimeoutError: requests continue without it",
        "net failed with OSError: requests continue without it",
        "disk recovered from OSError (seconds=90 failures=2)",
        "disk recovered from TimeoutError (seconds=90 failures=1)",
        "disk failed with OSError: requests continue without it",
    ]


def test_observer_that_keeps_failing_is_logged_every_ten_minutes(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A reminder has the number of failures since the last line."""
    reporter = ErrorReporter(clock=clock)

    for _ in range(601):
        reporter.report("Broken", KeyError())
        clock.advance(1)

    assert caplog.messages == [
        "Broken failed with KeyError: requests continue without it",
        "Broken failed with KeyError: requests continue without it (failures=600)",
    ]


class LifecycleObserver(Observer):
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
    observer = LifecycleObserver()

    await drive(ExchangeMiddleware(answering(), observers=[observer]))

    assert observer.calls == ["open", "close 200"]


@pytest.mark.anyio
async def test_observer_without_overrides_ignores_everything() -> None:
    """The hooks of the base class do nothing, even if they are called directly."""
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
            raise RuntimeError("disk full")

    observer = RecordingObserver()
    response = await drive(ExchangeMiddleware(answering(b"whole"), observers=[Broken(), observer]))

    assert response.body == b"whole"
    assert observer.calls == ["opened", "failed Broken", "finished"]


class Asynchronous(Observer):
    """An observer whose hook is a coroutine function by mistake."""

    async def on_close(self, exchange: Exchange) -> None:  # type: ignore[override]
        """Handle a finished exchange."""


@pytest.mark.parametrize("observer", [Observer, Asynchronous(), object()])
def test_invalid_observer_is_rejected(observer: object) -> None:
    """A class, a coroutine hook, and an object that is not callable raise at construction."""
    with pytest.raises(ValueError, match="observers must be instances of Observer or callables"):
        ExchangeMiddleware(answering(), observers=[observer])  # type: ignore[list-item]
