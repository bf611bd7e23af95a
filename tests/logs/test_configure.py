"""Logging configuration of the process."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tokenpulse_mw import configure_logging
from tokenpulse_mw.logs import TextFormatter

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

SERVER_HANDLER = logging.NullHandler()


@pytest.fixture
def server() -> Iterator[logging.Logger]:
    """Return a child logger with a handler and a level, as servers configure theirs."""
    parent = logging.getLogger("test_server")
    logger = logging.getLogger("test_server.access")
    for configured in (parent, logger):
        configured.addHandler(SERVER_HANDLER)
        configured.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)
    for configured in (parent, logger):
        configured.removeHandler(SERVER_HANDLER)


def test_level_applies_to_all_loggers() -> None:
    """Records below the level are not written."""
    stream = io.StringIO()
    configure_logging("ERROR", stream=stream)

    logging.getLogger("anything").warning("no")
    logging.getLogger("anything").critical("yes")

    assert stream.getvalue().count("\n") == 1
    assert "[ERROR] [anything] yes" in stream.getvalue()


def test_level_is_case_insensitive() -> None:
    """WARNING is an alias of WARN."""
    stream = io.StringIO()
    configure_logging("warning", stream=stream)

    logging.getLogger("anything").info("no")
    logging.getLogger("anything").warning("yes")

    assert stream.getvalue().endswith("[WARN] [anything] yes\n")
    assert stream.getvalue().count("\n") == 1


def test_second_call_replaces_only_the_handler_of_the_first() -> None:
    """No line is written twice, and other handlers stay, also those with our formatter."""
    root, other = logging.getLogger(), logging.NullHandler()
    other.setFormatter(TextFormatter())
    root.addHandler(other)
    first, second = io.StringIO(), io.StringIO()

    configure_logging(stream=first)
    configure_logging("WARN", "json", stream=second)
    logging.getLogger().error("once")

    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)
    assert other in root.handlers


def test_default_stream_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Containers collect standard error."""
    configure_logging()
    logging.getLogger("Migration").info("done")

    assert capsys.readouterr().err.endswith("] [INFO] [Migration] done\n")


def test_captured_logger_writes_to_the_stream(server: logging.Logger) -> None:
    """A captured logger and its children lose their handlers and levels."""
    stream = io.StringIO()
    configure_logging("DEBUG", "json", stream=stream, capture=["test_server"])

    server.debug("GET / 200")

    assert SERVER_HANDLER not in server.handlers
    assert json.loads(stream.getvalue())["module"] == "test_server.access"


def test_captured_logger_keeps_a_level_above_info(server: logging.Logger) -> None:
    """A raised level was set on purpose: access lines contain paths and queries."""
    server.setLevel(logging.WARNING)
    stream = io.StringIO()
    configure_logging("INFO", stream=stream, capture=["test_server"])

    server.info("GET /?key=secret 200")
    server.warning("slow")

    assert stream.getvalue().endswith("[WARN] [test_server.access] slow\n")
    assert stream.getvalue().count("\n") == 1


def test_logger_configured_later_is_captured_too(server: logging.Logger) -> None:
    """Hypercorn adds the handler with its first line; no line is written twice."""
    stream, own = io.StringIO(), io.StringIO()
    configure_logging("INFO", stream=stream, capture=["uvicorn", "test_server"])
    server.addHandler(logging.StreamHandler(own))

    server.info("Running")
    server.info("Stopping")

    assert own.getvalue() == "Running\n"
    assert stream.getvalue().endswith("[INFO] [test_server.access] Stopping\n")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("silenced", ["test_server", "test_server.access"])
def test_silenced_logger_is_not_captured(server: logging.Logger, silenced: str) -> None:
    """A logger without propagation and handlers was silenced on purpose, with its children."""
    logging.getLogger(silenced).handlers.clear()
    stream = io.StringIO()

    configure_logging("INFO", stream=stream, capture=["test_server"])
    server.critical("GET /?key=secret 200")

    assert stream.getvalue() == ""
    assert logging.getLogger(silenced).propagate is False


def test_other_loggers_are_not_captured(server: logging.Logger) -> None:
    """A logger whose name only begins with a captured name keeps its handlers."""
    stream = io.StringIO()
    configure_logging("INFO", stream=stream, capture=["test_serv"])

    server.critical("down")

    assert stream.getvalue() == ""
    assert SERVER_HANDLER in server.handlers


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"level": "LOUD"}, "log level must be one of DEBUG, INFO, WARN, ERROR, got 'LOUD'"),
        ({"format": "xml"}, "log format must be one of text, json, got 'xml'"),
        (
            {"capture": "uvicorn"},
            r"capture must be a list of strings, such as \['uvicorn'\], got 'u",
        ),
        ({"queue": -1}, "queue must be an integer of at least 0, got -1"),
    ],
)
def test_invalid_option_is_rejected_and_changes_nothing(
    options: dict[str, str], error: str
) -> None:
    """The error names the option, the expected value and the value it got."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level

    with pytest.raises(ValueError, match=error):
        configure_logging(**options)  # type: ignore[arg-type]  # invalid on purpose
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
