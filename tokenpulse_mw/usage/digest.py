"""What the end of a document says of usage that is too long to be kept: an image, many vectors."""

from __future__ import annotations

import re

from .document import UNREADABLE, read
from .statement import statement

HEAD = 128  # bytes of its beginning that are kept, which tell what it is
TAIL = 16 * 1024  # and of its end

_KEYS = (b'"model"', b'"usage"', b'"usageMetadata"')
_EVENT = re.compile(rb'"type": ?"(response\.(?:completed|incomplete|failed))"')
_WRAPPER = re.compile(rb'\{\s*"response"\s*:')


def digest(head: bytes, tail: bytes) -> bytes:
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


def _says_usage(data: bytes) -> bool:
    try:
        return any(statement(document) is not None for document in read(data))
    except UNREADABLE:
        return False
