"""Text and JSON formatters."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.logs import JsonFormatter, TextFormatter

from .records import record_of

both_formats = pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])


class Broken:
    """Object whose `str()` raises an error."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def text(message: object, **fields: object) -> str:
    """Return the text line of a warning."""
    return TextFormatter().format(record_of(message, **fields))


def entry(message: object, **fields: object) -> dict[str, object]:
    """Return the JSON object of a warning."""
    line = JsonFormatter().format(record_of(message, **fields))
    loaded: dict[str, object] = json.loads(line)
    return loaded


def test_text_line_has_the_format_of_the_guide() -> None:
    """A line has the time with milliseconds in UTC, the level, the module and the message."""
    line = text("正在执行数据库迁移...")

    assert line == "[2026-01-21T14:00:42.661Z] [WARN] [Migration] 正在执行数据库迁移..."


def test_control_characters_are_escaped() -> None:
    """A message cannot forge a line, also not with line separators of Unicode."""
    line = text("a\nb\r\x1b[31m\u2028c\x85d\te")

    assert line.endswith(r"[Migration] a\nb\r\x1b[31m\x2028c\x85d\te")


def test_json_line_is_an_object() -> None:
    """The object has the fields of a text line."""
    assert entry('say "hi"\n') == {
        "time": "2026-01-21T14:00:42.661Z",
        "level": "WARN",
        "module": "Migration",
        "message": 'say "hi"\n',
    }


@both_formats
def test_traceback_is_on_the_same_line(formatter: logging.Formatter) -> None:
    """The traceback is part of the entry."""
    try:
        raise RuntimeError("no disk")
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
        line = formatter.format(record_of("failed", exc_info=info))

    assert "\n" not in line
    assert "failed" in line
    assert r"\nRuntimeError: no disk" in line


@both_formats
def test_lone_surrogate_is_escaped(formatter: logging.Formatter) -> None:
    """A path with invalid bytes does not lose the line."""
    assert r"\udc80" in formatter.format(record_of("path \udc80"))


def test_stack_info_is_written() -> None:
    """`stack_info=True` adds the stack to the line."""
    assert text("here", stack_info="Stack:\n  a").endswith(r"here Stack:\n  a")


@both_formats
@pytest.mark.parametrize("created", [1e20, -1e20, 1e15, float("nan"), float("inf"), "soon", None])
def test_invalid_time_is_replaced_by_the_present_time(
    formatter: logging.Formatter, created: object
) -> None:
    """A log collector may reject lines without a time."""
    before = datetime.now(UTC).replace(microsecond=0)

    line = formatter.format(record_of("done", created=created, msecs=float("nan")))

    (time,) = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line)
    assert before <= datetime.fromisoformat(time) <= datetime.now(UTC)


@both_formats
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"msg": "%d tokens", "args": ("many",)}, "%d tokens <its arguments raised TypeError>"),
        ({"msg": "to %s", "args": (Broken(),)}, "to %s <its arguments raised RuntimeError>"),
        ({"msg": Broken()}, "<Broken: str() raised RuntimeError>"),
        ({"exc_info": (1, 2)}, "<the traceback raised IndexError>"),
    ],
)
def test_invalid_record_is_described_in_the_line(
    formatter: logging.Formatter, fields: dict[str, object], expected: str
) -> None:
    """A mistake in a logging call loses neither the line nor the request."""
    assert expected in formatter.format(record_of("unused", **fields))


def test_extras_are_fields_of_the_json_line() -> None:
    """The fields of `extra` follow the message, in JSON types."""
    line = entry("used", tokens=12, share=0.5, models=["a"], at=datetime(2026, 1, 21, tzinfo=UTC))

    assert list(line) == ["time", "level", "module", "message", "tokens", "share", "models", "at"]
    assert (line["tokens"], line["share"], line["models"]) == (12, 0.5, ["a"])
    assert line["at"] == "2026-01-21T00:00:00Z"


def test_extras_are_not_in_the_text_line() -> None:
    """The format of the guide has no extra fields."""
    assert text("used", tokens=12).endswith("[Migration] used")


def test_extra_with_a_reserved_name_gets_an_underscore() -> None:
    """An extra does not replace a field that every line has."""
    line = entry("real", level="forged", time=0, level_="other")

    assert (line["level"], line["message"]) == ("WARN", "real")
    assert (line["level_"], line["time_"]) == ("forged", 0)


def test_extra_named_error_gets_an_underscore() -> None:
    """`error` is reserved for tracebacks, also on lines without one."""
    line = entry("done", error={"code": 502})

    assert "error" not in line
    assert line["error_"] == {"code": 502}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Broken(), "<Broken: str() raised RuntimeError>"),
        ("\udc80", r"\udc80"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (float("nan"), None),
    ],
)
def test_extra_without_a_json_form_is_a_string(value: object, written: object) -> None:
    """An invalid extra loses neither the line nor the other extras."""
    line = entry("used", odd=value, tokens=12)

    assert (line["odd"], line["tokens"]) == (written, 12)


def test_recursive_extra_is_a_string() -> None:
    """A list that contains itself is written as Python shows it."""
    loop: list[object] = []
    loop.append(loop)

    assert entry("used", loop=loop)["loop"] == "[[...]]"


def test_color_message_of_uvicorn_is_omitted() -> None:
    """`color_message` repeats the message with escape sequences."""
    assert "color_message" not in entry("started", color_message="\x1b[36mstarted")


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"request_id": "abc"}, "[Migration] done request_id=abc"),
        ({"request_id": "abc", "msg": "GET / 200 request_id=abc"}, "GET / 200 request_id=abc"),
        ({}, "[Migration] done"),
    ],
)
def test_text_line_ends_with_the_request_id_if_enabled(fields: dict[str, object], end: str) -> None:
    """The id is last and occurs once; lines outside of requests have none."""
    line = TextFormatter(request_id=True).format(record_of("done", **fields))

    assert line.endswith(end)
    assert line.count("request_id=") == ("request_id" in fields)


def test_text_line_has_no_request_id_by_default() -> None:
    """The default format is exactly that of the guide."""
    assert text("done", request_id="abc").endswith("[Migration] done")


@given(
    message=st.one_of(st.text(), st.binary()),
    arguments=st.lists(st.one_of(st.text(), st.integers()), max_size=2).map(tuple),
    extras=st.dictionaries(st.text(min_size=1), st.one_of(st.text(), st.floats()), max_size=3),
)
def test_any_record_is_one_line_of_utf_8(
    message: object, arguments: tuple[object, ...], extras: dict[str, object]
) -> None:
    """Both formatters return one line for any message, arguments and extras."""
    fields = {f"x{name}": value for name, value in extras.items()}
    record = record_of(message, args=arguments, **fields)

    line = TextFormatter(request_id=True).format(record)
    assert line.encode().decode().splitlines() == [line]
    assert json.loads(JsonFormatter().format(record).encode())["level"] == "WARN"
