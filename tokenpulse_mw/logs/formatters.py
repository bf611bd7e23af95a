"""The two formats of a line: that of the seed's guide for people, and JSON for machines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from .levels import LEVELS

# A control character in a message could end the line and forge the next one.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


_ESCAPES |= {9: "\\t", 10: "\\n", 13: "\\r"}


class TextFormatter(logging.Formatter):
    """`[time] [level] [module] message`; a traceback follows on the same line, escaped.

    Args:
        request_id: End the lines of a request with ` request_id=...`, which is no part of the
            guide's format.
    """

    def __init__(self, *, request_id: bool = False) -> None:
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        """One line; it is never refused, whatever the record holds."""
        entry = entry_of(self, record)
        line = f"[{entry['time']}] [{entry['level']}] [{entry['module']}] {entry['message']}"
        if "error" in entry:
            line += f" {entry['error']}"
        if self._request_id and hasattr(record, "request_id"):
            told = f" request_id={text_of(record.request_id)}"
            line += "" if line.endswith(told) else told  # as lines of the access log do
        return line.translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, as Loki and the ELK stack read it.

    What was given as `extra={...}` is part of the object; a name of a field of ours is written
    with `_` after it, whether or not the line has that field.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line; it is never refused, whatever the record holds."""
        entry = entry_of(self, record)
        line: dict[str, object] = {**entry}
        for name, value in extras_of(record):
            line.setdefault(f"{name}_" if name in FIELDS else name, _json(value))
        return msgspec.json.encode(line).decode()


def _json(value: object) -> msgspec.Raw:
    """`value` in JSON; as text where there is no JSON for it."""
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except Exception:  # noqa: BLE001 - a line that says it in words is better than none
        return msgspec.Raw(msgspec.json.encode(text_of(value)))


FIELDS = ("time", "level", "module", "message", "error")


_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "ERROR"}


# What every record has, or is given by other formatters; `color_message` is uvicorn's.
_NO_EXTRAS = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def entry_of(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """`time`, `level`, `module`, `message` and, where there is one, `error`."""
    entry = {
        "time": _time(record),
        "level": _NAMES.get(record.levelno, record.levelname),
        "module": record.name,
        "message": _message(record),
    }
    if record.exc_info or record.stack_info:
        entry["error"] = _error(formatter, record)
    return {name: text_of(text) for name, text in entry.items()}


def extras_of(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """What was given as `extra={...}`."""
    for name, value in vars(record).items():
        if name not in _NO_EXTRAS:
            yield text_of(name), value


def text_of(value: object) -> str:
    """`value` as text that can be written.

    A lone surrogate, as in a path that is no UTF-8, could not be written at all.
    """
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - a line that says so is better than none
        text = f"<{type(value).__name__}, of which str() raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    """When it was logged; now, where that is no time, for a line without one may be refused."""
    try:
        time = datetime.fromtimestamp(record.created, UTC)
    except Exception:  # noqa: BLE001 - as above
        time = datetime.now(UTC)
    return f"{time.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit, say
        return f"{text_of(record.msg)} <its arguments raised {type(error).__name__}>"


def _error(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        if record.exc_info:
            return formatter.formatException(record.exc_info)
        return formatter.formatStack(record.stack_info or "")
    except Exception as error:  # noqa: BLE001 - as above
        return f"<the traceback raised {type(error).__name__}>"
