"""What a document says of usage that is too long to be kept: an image, many vectors."""

from __future__ import annotations

import re

from .document import UNREADABLE, read
from .formats import find_usage

HEAD = 128  # bytes of its beginning, which tell what it is


TAIL = 16 * 1024  # and of its end, which mostly tells the usage


OPENING = 1024  # bytes of its beginning that may tell it, too


_KEYS = (b'"model"', b'"usage"', b'"usageMetadata"')


_EVENT = re.compile(rb'"type": ?"(response\.(?:completed|incomplete|failed))"')


# One step through JSON: a whole string, one that goes on, a bracket, or the end of a member.
_STEP = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)


_WRAPPER = re.compile(rb'\{\s*"response"\s*:')


def usage_from_tail(head: bytes, tail: bytes) -> bytes:
    """A document that says of usage what a longer one says at its end, or b"" where it does not.

    Nothing is guessed: from a key on, only what stands at the top of the document, or of the
    response that is known to be wrapped by it, is JSON with nothing left over.

    Args:
        head: The beginning of the longer document.
        tail: Its end; it must be known to have ended here.
    """
    opening = b"{"
    if (event := _EVENT.search(head)) is not None:
        opening = b'{"type":"%s","response":{' % event[1]
    elif _WRAPPER.search(head) is not None:
        opening = b'{"response":{'
    for key in _KEYS:
        place = tail.rfind(key)
        if place >= 0 and _says_usage(short := opening + tail[place:]):
            return short
    return b""


def usage_from_head(head: bytes) -> bytes:
    """As `digest`, of what the beginning says: llama.cpp and Mistral tell the usage first.

    It is cut after the last member of the document that is whole, so that what was inside of
    another, or of a text, is not taken for its own.
    """
    short = head[: _end_of_members(head)] + b"}"
    return short if _says_usage(short) else b""


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


def _says_usage(data: bytes) -> bool:
    try:
        return any(find_usage(document) is not None for document in read(data))
    except UNREADABLE:
        return False
