"""Text and JSON formatters of log lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from .levels import LEVELS

# A control character in a message could end the line and forge the next one.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_ESCAPES |= {9: "\\t", 10: "\\n", 13: "\\r"}

_FIELDS = ("time", "level", "module", "message", "error")
_LEVEL_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "ERROR"}

# Attributes that every record has or that other formatters add; `color_message` is uvicorn's.
_NO_EXTRAS = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


class TextFormatter(logging.Formatter):
    """Formatter of `[time] [level] [module] message`.

    A traceback follows on the same line, escaped.

    Args:
        request_id: Add ` request_id=...` to the lines of a request. It is not part of the format of
            TokenPulse's monitoring guide.
    """

    def __init__(self, *, request_id: bool = False) -> None:
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; no record raises an error."""
        entry = _entry(self, record)
        line = f"[{entry['time']}] [{entry['level']}] [{entry['module']}] {entry['message']}"
        if "error" in entry:
            line += f" {entry['error']}"
        if self._request_id and hasattr(record, "request_id"):
            suffix = f" request_id={_text(record.request_id)}"
            line += "" if line.endswith(suffix) else suffix  # access log lines have it already
        return line.translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    """Formatter of one JSON object per line, in a form for Loki and the ELK stack.

    The fields of `extra={...}` are part of the object. An extra named like a field of the line
    (`time`, `level`, `module`, `message`, `error`) is written with `_` after its name, even if the
    line does not have that field.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; no record raises an error."""
        line: dict[str, object] = {**_entry(self, record)}
        for name, value in _extras(record):
            line.setdefault(f"{name}_" if name in _FIELDS else name, _json(value))
        return msgspec.json.encode(line).decode()


def _json(value: object) -> msgspec.Raw:
    """Return `value` in JSON; as a string if JSON cannot represent it."""
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except Exception:  # noqa: BLE001 - a line with an invalid extra is still logged
        return msgspec.Raw(msgspec.json.encode(_text(value)))


def _entry(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """Return `time`, `level`, `module`, `message` and, for an exception or a stack, `error`."""
    entry = {
        "time": _time(record),
        "level": _LEVEL_NAMES.get(record.levelno, record.levelname),
        "module": record.name,
        "message": _message(record),
    }
    if record.exc_info or record.stack_info:
        entry["error"] = _error(formatter, record)
    return {name: _text(text) for name, text in entry.items()}


def _extras(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield the fields of `extra={...}`."""
    for name, value in vars(record).items():
        if name not in _NO_EXTRAS:
            yield _text(name), value


def _text(value: object) -> str:
    """Return `str(value)`, valid in UTF-8: a lone surrogate, as in a path, is escaped."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - the line is still logged
        text = f"<{type(value).__name__}: str() raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    """Return the time of the record, or the present time if it is invalid.

    A log collector may reject lines without a time.
    """
    try:
        time = datetime.fromtimestamp(record.created, UTC)
    except Exception:  # noqa: BLE001 - the line is still logged
        time = datetime.now(UTC)
    return f"{time.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - such as arguments that do not fit the message
        return f"{_text(record.msg)} <its arguments raised {type(error).__name__}>"


def _error(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        if record.exc_info:
            return formatter.formatException(record.exc_info)
        return formatter.formatStack(record.stack_info or "")
    except Exception as error:  # noqa: BLE001 - the line is still logged
        return f"<the traceback raised {type(error).__name__}>"
