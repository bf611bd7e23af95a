"""Usage at the start or the end of a document that is too long to be held."""

from __future__ import annotations

import re

from .document import UNREADABLE, read
from .formats import find_usage

PREFIX_BYTES = 128  # bytes of the start that show the kind of the document
TAIL_BYTES = 16 * 1024  # bytes of the end, which usually has the usage
HEAD_BYTES = 1024  # bytes of the start that may have the usage
_KEYS = (b'"model"', b'"tool_usage"', b'"usage"', b'"usageMetadata"')
_EVENT = re.compile(rb'"type": ?"(response\.(?:completed|incomplete|failed|done))"')
# One step through JSON: a whole string, an unfinished one, a bracket, or the end of a member.
_STEP = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)
_WRAPPER = re.compile(rb'\{\s*"response"\s*:')


def usage_from_tail(head: bytes, tail: bytes) -> bytes:
    """Return a document with the usage at the end of a longer one, or b"" if it has none.

    The result is exact: the rest of the document from a key on is only valid JSON if the key is at
    the top level of the document, or of the response that it wraps.

    Args:
        head: The start of the longer document.
        tail: Its end; the document must be complete.
    """
    opening = b"{"
    if (event := _EVENT.search(head)) is not None:
        opening = b'{"type":"%s","response":{' % event[1]
    elif _WRAPPER.search(head) is not None:
        opening = b'{"response":{'
    for key in _KEYS:
        start = tail.rfind(key)
        if start >= 0 and _has_usage(short := opening + tail[start:]):
            return short
    return b""


def usage_from_head(head: bytes) -> bytes:
    """Return a document with the usage at the start of a longer one, or b"" if it has none.

    llama.cpp and Mistral report the usage first. The result ends with the last complete member at
    the top level, so that nested objects and text are not mistaken for it.
    """
    short = head[: _end_of_members(head)] + b"}"
    return short if _has_usage(short) else b""


def _end_of_members(head: bytes) -> int:
    depth = end = 0
    for step in _STEP.finditer(head):
        mark = step[0]
        if mark == b'"':
            break
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
        elif mark == b"," and depth == 1:
            end = step.start()
    return end


def _has_usage(data: bytes) -> bool:
    try:
        return any(find_usage(document) is not None for document in read(data))
    except UNREADABLE:
        return False
