"""The log format."""

from __future__ import annotations

import io
import json
import logging

import pytest

from tokenpulse_mw import configure_logging

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def written(message: str, *, format: str = "text", **options: object) -> str:
    """What is written of one warning."""
    stream = io.StringIO()
    configure_logging("DEBUG", format, stream=stream)
    record = logging.makeLogRecord(
        {
            "name": "Migration",
            "levelno": logging.WARNING,
            "msg": message,
            "created": 1769004042.6619,
            "msecs": 661.9,
            **options,
        }
    )
    logging.getLogger("Migration").handle(record)
    return stream.getvalue()


def test_a_line_is_as_in_the_guide() -> None:
    """Time with milliseconds in UTC, level, module, message."""
    line = written("正在执行数据库迁移...")

    assert line == "[2026-01-21T14:00:42.661Z] [WARN] [Migration] 正在执行数据库迁移...\n"


def test_a_message_cannot_forge_a_line() -> None:
    """Control characters, line ends of Unicode among them, are written as escapes."""
    line = written("a\nb\r\x1b[31m\u2028c\x85d\te")

    assert line.endswith(r"[Migration] a\nb\r\x1b[31m\x2028c\x85d\te" + "\n")
    assert line.count("\n") == 1


def test_a_line_of_json_is_an_object() -> None:
    """With the same fields, for Loki and the ELK stack."""
    entry = json.loads(written('say "hi"\n', format="json"))

    assert entry == {
        "time": "2026-01-21T14:00:42.661Z",
        "level": "WARN",
        "module": "Migration",
        "message": 'say "hi"\n',
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_exception_stays_on_its_line(format: str) -> None:
    """The traceback is part of the entry, not lines of its own."""
    try:
        raise RuntimeError("no disk")
    except RuntimeError as error:
        line = written("failed", format=format, exc_info=(type(error), error, error.__traceback__))

    assert line.count("\n") == 1
    assert "failed" in line
    assert r"\nRuntimeError: no disk" in line


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_is_no_unicode_is_written_too(format: str) -> None:
    """A path with stray bytes in it costs no line of the log."""
    assert r"\udc80" in written("path \udc80", format=format)


def test_a_stack_that_was_asked_for_is_written() -> None:
    """`stack_info=True` is how one asks where a line came from."""
    assert written("here", stack_info="Stack:\n  a").endswith(r"here Stack:\n  a" + "\n")


def test_the_level_holds_for_the_whole_process() -> None:
    """What is below it is not written."""
    stream = io.StringIO()
    configure_logging("ERROR", stream=stream)

    logging.getLogger("anything").warning("no")
    logging.getLogger("anything").critical("yes")

    assert stream.getvalue().count("\n") == 1
    assert "[ERROR] [anything] yes" in stream.getvalue()


def test_configuring_again_replaces_only_our_own_handler() -> None:
    """Nothing is written twice, and handlers of others stay."""
    root, others = logging.getLogger(), logging.NullHandler()
    root.addHandler(others)
    first, second = io.StringIO(), io.StringIO()

    configure_logging(stream=first)
    configure_logging("WARN", "json", stream=second)
    logging.getLogger().error("once")

    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)
    assert others in root.handlers


@pytest.mark.parametrize(
    ("level", "format", "said"),
    [
        ("LOUD", "text", "log level 'LOUD' is none: expected one of DEBUG, INFO, WARN, ERROR"),
        ("INFO", "xml", "log format 'xml' is none: expected one of text, json"),
    ],
)
def test_unknown_levels_and_formats_are_refused(level: str, format: str, said: str) -> None:
    """The error says what came and what there is."""
    with pytest.raises(ValueError, match=said):
        configure_logging(level, format)
