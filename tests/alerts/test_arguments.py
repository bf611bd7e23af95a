"""What an engine is given: what would fail later is refused when it is given."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.apps import answering
from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    AlertMiddleware,
    LogSink,
    MemoryAlertStore,
    Sink,
    Thresholds,
    WebhookSink,
    default_rules,
    quota_exceeded,
)

URL = "sqlite+aiosqlite:///hunter2.db"


@pytest.mark.parametrize(
    ("chosen", "expected", "got"),
    [
        ({"store": URL}, r"SQLAlertStore\(url\) or", "a str"),
        ({"store": MemoryAlertStore}, "AlertStore", r"the class MemoryAlertStore \(not called\)"),
        ({"store": object()}, "AlertStore", "a object"),
        ({"sinks": [LogSink]}, r"\[LogSink\(\)\] or", r"the class LogSink \(not called\) among"),
        ({"sinks": [WebhookSink]}, r"\[WebhookSink\(url\)\]", "the class WebhookSink"),
        ({"sinks": ["http://hunter2"]}, r"\[WebhookSink\(url\)\]", "a str among them"),
        ({"sinks": [None]}, r"\[LogSink\(\)\]", "None among them"),
        ({"sinks": [lambda: None]}, "functions of an AlertEvent", "the function <lambda>"),
        ({"sinks": LogSink()}, r"a list of functions .* \[LogSink\(\)\]", "a LogSink and no list"),
        ({"sinks": "http://hunter2"}, "a list of functions", "a str and no list"),
        ({"rules": [default_rules]}, r"default_rules\(\)", "the function default_rules among them"),
        ({"rules": default_rules}, r"default_rules\(\)", "the function default_rules and no list"),
        ({"rules": [quota_exceeded]}, "functions of", "the function quota_exceeded among them"),
        ({"rules": [Thresholds()]}, "functions of", "a Thresholds among them"),
        ({"thresholds": {"error_rate": 1}}, r"Thresholds\(\*\*values\) of a dict", "a dict"),
        ({"thresholds": {}}, r"Thresholds\(\*\*values\) of a dict", "a dict"),
        ({"interval": "60"}, "interval must be a number above 0", "'60'"),
    ],
)
def test_what_would_fail_later_is_refused(chosen: Any, expected: str, got: str) -> None:
    """The error says what came, and what to write; a URL, which may be secret, it does not say."""
    with pytest.raises(ValueError, match=f"{expected}.*, got {got}") as error:
        AlertEngine(**chosen)

    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("engine", [None, AlertEngine, "engine"])
def test_a_middleware_without_an_engine_is_refused(engine: Any) -> None:
    """When it is made, and not with each request."""
    with pytest.raises(ValueError, match=r"engine=AlertEngine\(\)\), got "):
        AlertMiddleware(answering(), engine=engine)


def test_rules_and_sinks_may_be_anything_that_can_be_called() -> None:
    """Methods, functions that are not written in Python, and those that take more than they get."""
    heard: list[AlertEvent] = []

    def anything(*given: object, **options: object) -> None:
        """Take whatever it is told."""

    sinks: list[Sink] = [heard.append, anything, LogSink()]
    rules: list[Any] = [lambda traffic, thresholds, now: [], max]

    engine = AlertEngine(iter(rules), iter(sinks))

    assert engine.sinks == ("list", "anything", "LogSink")
    assert list(engine.rules) == ["<lambda>", "max"]


def test_a_sink_may_call_its_event_as_it_likes() -> None:
    """What it is told has no name, nor does what it gives matter: mypy has read this."""

    def plain(alert: AlertEvent) -> None:
        """Take it."""

    async def later(what: AlertEvent) -> int:
        return 1

    class Mine:
        async def __call__(self, told: AlertEvent, *, twice: bool = False) -> None:
            """Take it."""

    assert AlertEngine(sinks=[plain, later, Mine()]).sinks == ("plain", "later", "Mine")
