"""The logging of a whole process."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tokenpulse_mw import configure_logging
from tokenpulse_mw.logs import TextFormatter

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

OWN = logging.NullHandler()


@pytest.fixture
def server() -> Iterator[logging.Logger]:
    """A logger below another, with a handler and a level of its own, as servers have them."""
    parent = logging.getLogger("test_server")
    logger = logging.getLogger("test_server.access")
    for each in (parent, logger):
        each.addHandler(OWN)
        each.propagate = False
    logger.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)
    for each in (parent, logger):
        each.removeHandler(OWN)


def test_the_level_holds_for_the_whole_process() -> None:
    """What is below it is not written."""
    stream = io.StringIO()
    configure_logging("ERROR", stream=stream)

    logging.getLogger("anything").warning("no")
    logging.getLogger("anything").critical("yes")

    assert stream.getvalue().count("\n") == 1
    assert "[ERROR] [anything] yes" in stream.getvalue()


def test_the_level_may_be_in_any_case() -> None:
    """As in the settings of most programs."""
    stream = io.StringIO()
    configure_logging("warning", stream=stream)

    logging.getLogger("anything").info("no")
    logging.getLogger("anything").warning("yes")

    assert stream.getvalue().endswith("[WARN] [anything] yes\n")
    assert stream.getvalue().count("\n") == 1


def test_configuring_again_replaces_only_our_own_handler() -> None:
    """Nothing is written twice, and handlers of others stay, also those with our formatter."""
    root, others = logging.getLogger(), logging.NullHandler()
    others.setFormatter(TextFormatter())
    root.addHandler(others)
    first, second = io.StringIO(), io.StringIO()

    configure_logging(stream=first)
    configure_logging("WARN", "json", stream=second)
    logging.getLogger().error("once")

    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)
    assert others in root.handlers


def test_standard_error_is_where_lines_go(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless a stream is given; containers collect it."""
    configure_logging()
    logging.getLogger("Migration").info("done")

    assert capsys.readouterr().err.endswith("] [INFO] [Migration] done\n")


def test_a_captured_logger_writes_here(server: logging.Logger) -> None:
    """It loses its own handlers and level, and so does what is below it."""
    stream = io.StringIO()
    configure_logging("DEBUG", "json", stream=stream, capture=["test_server"])

    server.debug("GET / 200")

    assert OWN not in server.handlers
    assert json.loads(stream.getvalue())["module"] == "test_server.access"


def test_a_captured_logger_that_was_made_quieter_stays_so(server: logging.Logger) -> None:
    """Its lines have paths and queries in them, and somebody did not want those."""
    server.setLevel(logging.WARNING)
    stream = io.StringIO()
    configure_logging("INFO", stream=stream, capture=["test_server"])

    server.info("GET /?key=secret 200")
    server.warning("slow")

    assert stream.getvalue().endswith("[WARN] [test_server.access] slow\n")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("silenced", ["test_server", "test_server.access"])
def test_a_logger_that_was_silenced_stays_silent(server: logging.Logger, silenced: str) -> None:
    """Somebody did not want its lines, nor those of the loggers below it, to be read."""
    logging.getLogger(silenced).handlers.clear()
    stream = io.StringIO()

    configure_logging("INFO", stream=stream, capture=["test_server"])
    server.critical("GET /?key=secret 200")

    assert stream.getvalue() == ""
    assert logging.getLogger(silenced).propagate is False


def test_other_loggers_keep_their_handlers(server: logging.Logger) -> None:
    """Without being asked, and for a name that only begins alike, nothing is taken away."""
    stream = io.StringIO()
    configure_logging("INFO", stream=stream, capture=["test_serv"])

    server.critical("down")

    assert stream.getvalue() == ""
    assert OWN in server.handlers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "LOUD"}, "log level must be one of DEBUG, INFO, WARN, ERROR, got 'LOUD'"),
        ({"format": "xml"}, "log format must be one of text, json, got 'xml'"),
        ({"capture": "uvicorn"}, "capture must be a list of names, got the string 'uvicorn'"),
        ({"queue": -1}, "the queue must have room for at least 1 line, got -1"),
    ],
)
def test_bad_options_are_refused_and_change_nothing(options: dict[str, str], said: str) -> None:
    """The error says what came and what there is."""
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level

    with pytest.raises(ValueError, match=said):
        configure_logging(**options)  # type: ignore[arg-type]  # which is what is tested
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
