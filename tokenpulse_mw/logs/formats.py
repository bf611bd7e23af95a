"""The two formats of a line: that of the seed's guide for people, and JSON for machines."""

from __future__ import annotations

import logging

import msgspec

from .entry import FIELDS, entry_of, extras_of, text_of

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
