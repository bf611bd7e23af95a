"""Byte patterns that show whether a document is worth decoding."""

from __future__ import annotations

import re

from ..scan import rfind_any

# A key of every vendor's usage, in one of two spellings. Inside a JSON string its quote would be
# escaped, so text that a model writes can only match at the end of a string.
COUNT = re.compile(rb'oken(?:s|Count)"')
_COUNTS = (b'okens"', b'okenCount"')
_LONGEST_COUNT = max(map(len, _COUNTS))

# Every event that reports an error contains one of these.
ERROR_SIGNS = (b'"error"', b'failed"')


def may_have_error(data: bytes) -> bool:
    """Return True if a document may report an error."""
    return ERROR_SIGNS[0] in data or ERROR_SIGNS[1] in data


def last_count(data: bytes, end: int) -> int:
    """Return the last position before `end` that matches `COUNT`, or -1; the fastest search."""
    last = data.rfind(b"oken", 0, end)  # usually absent; searching for both spellings is slower
    if last < 0 or data.startswith(_COUNTS, last, end):
        return last
    return rfind_any(data, _COUNTS, 0, min(last + _LONGEST_COUNT, end))
