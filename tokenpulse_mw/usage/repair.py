"""What is no JSON, though vendors send it as such, made readable where that takes no guess."""

from __future__ import annotations

import re

from .bounds import LINES

# Half of a character outside the basic plane: a text that was cut between the two.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NO_NUMBER = re.compile(rb"(?<=[\s:,\[])(?:NaN|-?Infinity)(?=[\s,\]}])")
_CONTROLS = bytes.maketrans(bytes(range(32)), b" " * 32)
_NOTHING = (b"", b"[DONE]")  # what a line may be that is no document


def mend(data: bytes) -> bytes:
    """`data` as JSON where it was meant to be: RFC 8259 forbids what Python's writer does.

    Halves of surrogate pairs (8.2), NaN and Infinity (6), and control characters in strings (7).
    The words of a model may be changed by it, which are of no interest here; their ends and all
    else stay where they are.
    """
    sound = _SURROGATE.sub(rb"\\ufffd", data).translate(_CONTROLS)
    return _NO_NUMBER.sub(b"null", sound)


def documents_in(data: bytes) -> list[bytes]:
    """The lines of `data`, each of which may be a document; none where they are too many.

    GLM and Kimi end some events of a stream with one line end, which is not their end by the rules:
    the data of several is one then, and what ends the stream may be among them.
    """
    lines = data.split(b"\n", LINES)
    if len(lines) > LINES:
        return []
    return [line for line in lines if line.strip() not in _NOTHING]
