"""The two formats of a line."""

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
    """Cannot be written."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def text(message: object, **fields: object) -> str:
    """The line of text of one warning."""
    return TextFormatter().format(record_of(message, **fields))


def entry(message: object, **fields: object) -> dict[str, object]:
    """What the line of JSON of one warning holds."""
    line = JsonFormatter().format(record_of(message, **fields))
    loaded: dict[str, object] = json.loads(line)
    return loaded


def test_a_line_is_as_in_the_guide() -> None:
    """Time with milliseconds in UTC, level, module, message."""
    line = text("正在执行数据库迁移...")

    assert line == "[2026-01-21T14:00:42.661Z] [WARN] [Migration] 正在执行数据库迁移..."


def test_a_message_cannot_forge_a_line() -> None:
    """Control characters, line ends of Unicode among them, are written as escapes."""
    line = text("a\nb\r\x1b[31m\u2028c\x85d\te")

    assert line.endswith(r"[Migration] a\nb\r\x1b[31m\x2028c\x85d\te")


def test_a_line_of_json_is_an_object() -> None:
    """With the same fields, for Loki and the ELK stack."""
    assert entry('say "hi"\n') == {
        "time": "2026-01-21T14:00:42.661Z",
        "level": "WARN",
        "module": "Migration",
        "message": 'say "hi"\n',
    }


@both_formats
def test_an_exception_stays_on_its_line(formatter: logging.Formatter) -> None:
    """The traceback is part of the entry, not lines of its own."""
    try:
        raise RuntimeError("no disk")
    except RuntimeError as error:
        info = (type(error), error, error.__traceback__)
        line = formatter.format(record_of("failed", exc_info=info))

    assert "\n" not in line
    assert "failed" in line
    assert r"\nRuntimeError: no disk" in line


@both_formats
def test_what_is_no_unicode_is_written_too(formatter: logging.Formatter) -> None:
    """A path with stray bytes in it costs no line of the log."""
    assert r"\udc80" in formatter.format(record_of("path \udc80"))


def test_a_stack_that_was_asked_for_is_written() -> None:
    """`stack_info=True` is how one asks where a line came from."""
    assert text("here", stack_info="Stack:\n  a").endswith(r"here Stack:\n  a")


@both_formats
@pytest.mark.parametrize("created", [1e20, -1e20, 1e15, float("nan"), float("inf"), "soon", None])
def test_a_time_that_is_none_is_now(formatter: logging.Formatter, created: object) -> None:
    """Whoever collects the lines may refuse one without a time."""
    before = datetime.now(UTC).replace(microsecond=0)

    line = formatter.format(record_of("done", created=created, msecs=float("nan")))

    (said,) = re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line)
    assert before <= datetime.fromisoformat(said) <= datetime.now(UTC)


@both_formats
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"msg": "%d tokens", "args": ("many",)}, "%d tokens <its arguments raised TypeError>"),
        ({"msg": "to %s", "args": (Broken(),)}, "to %s <its arguments raised RuntimeError>"),
        ({"msg": Broken()}, "<Broken, of which str() raised RuntimeError>"),
        ({"exc_info": (1, 2)}, "<the traceback raised IndexError>"),
    ],
)
def test_what_cannot_be_written_is_said_in_its_place(
    formatter: logging.Formatter, fields: dict[str, object], said: str
) -> None:
    """A mistake in a call to the log costs neither the line nor the request."""
    assert said in formatter.format(record_of("unused", **fields))


def test_extras_are_fields_of_json() -> None:
    """What was given as `extra` lies beside the message, in JSON's own types."""
    found = entry("used", tokens=12, share=0.5, models=["a"], at=datetime(2026, 1, 21, tzinfo=UTC))

    assert list(found) == ["time", "level", "module", "message", "tokens", "share", "models", "at"]
    assert (found["tokens"], found["share"], found["models"]) == (12, 0.5, ["a"])
    assert found["at"] == "2026-01-21T00:00:00Z"


def test_extras_are_not_in_text() -> None:
    """The guide's format has no place for them."""
    assert text("used", tokens=12).endswith("[Migration] used")


def test_an_extra_takes_no_other_fields_place() -> None:
    """One that is named as a field of every line is written with `_` after its name."""
    found = entry("real", level="forged", time=0, level_="kept")

    assert (found["level"], found["message"]) == ("WARN", "real")
    assert (found["level_"], found["time_"]) == ("forged", 0)


def test_an_extra_is_no_traceback() -> None:
    """`error` is the traceback, on lines that have none as well: a field has one meaning."""
    found = entry("done", error={"code": 502})

    assert "error" not in found
    assert found["error_"] == {"code": 502}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Broken(), "<Broken, of which str() raised RuntimeError>"),
        ("\udc80", r"\udc80"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        (float("nan"), None),
    ],
)
def test_an_extra_that_is_no_json_is_written_as_text(value: object, written: object) -> None:
    """It costs neither the line nor the other extras."""
    found = entry("used", odd=value, tokens=12)

    assert (found["odd"], found["tokens"]) == (written, 12)


def test_an_extra_that_holds_itself_is_written() -> None:
    """It ends."""
    loop: list[object] = []
    loop.append(loop)

    assert entry("used", loop=loop)["loop"] == "[[...]]"


def test_what_uvicorn_adds_for_terminals_is_left_out() -> None:
    """Its `color_message` says the same again, with escape sequences."""
    assert "color_message" not in entry("started", color_message="\x1b[36mstarted")


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"request_id": "abc"}, "[Migration] done request_id=abc"),
        ({"request_id": "abc", "msg": "GET / 200 request_id=abc"}, "GET / 200 request_id=abc"),
        ({}, "[Migration] done"),
    ],
)
def test_text_has_the_requests_id_when_asked(fields: dict[str, object], end: str) -> None:
    """It comes last and once; lines of no request have none."""
    line = TextFormatter(request_id=True).format(record_of("done", **fields))

    assert line.endswith(end)
    assert line.count("request_id=") == ("request_id" in fields)


def test_text_has_no_requests_id_unless_asked() -> None:
    """The guide's format is exact."""
    assert text("done", request_id="abc").endswith("[Migration] done")


@given(
    message=st.one_of(st.text(), st.binary()),
    arguments=st.lists(st.one_of(st.text(), st.integers()), max_size=2).map(tuple),
    extras=st.dictionaries(st.text(min_size=1), st.one_of(st.text(), st.floats()), max_size=3),
)
def test_every_record_is_one_line(
    message: object, arguments: tuple[object, ...], extras: dict[str, object]
) -> None:
    """Whatever is logged, a line comes out, and it can be sent as UTF-8."""
    own = {f"x{name}": value for name, value in extras.items()}
    record = record_of(message, args=arguments, **own)

    line = TextFormatter(request_id=True).format(record)
    assert line.encode().decode().splitlines() == [line]
    assert json.loads(JsonFormatter().format(record).encode())["level"] == "WARN"
