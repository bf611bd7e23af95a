"""What is no JSON, though vendors send it as such, made readable where that takes no guess."""

from __future__ import annotations

import re

from .bounds import MAX_DOCUMENT_LINES, MAX_REPAIRS

# Each pattern begins with fixed bytes, which are searched for at the speed of memory.
# Half of a character outside the basic plane: a text that was cut between the two.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NO_NUMBERS = (
    re.compile(rb"NaN(?<=[\s:,\[]NaN)(?=[\s,\]}])"),
    re.compile(rb"Infinity(?<=[\s:,\[]Infinity)(?=[\s,\]}])"),
    re.compile(rb"-Infinity(?<=[\s:,\[]-Infinity)(?=[\s,\]}])"),
)
_CONTROLS = bytes.maketrans(bytes(range(32)), b" " * 32)
_NOTHING = (b"", b"[DONE]")  # what a line may be that is no document


def mend(data: bytes) -> bytes:
    """Return `data` as JSON where RFC 8259 forbids what Python's encoder writes.

    Halves of surrogate pairs (8.2), NaN and Infinity (6), and control characters in strings (7).
    The model's text may change, which is not of interest here; its ends and all else stay where
    they are. At most 20,000 of each are replaced.
    """
    return without_controls(repaired(data))


def repaired(data: bytes) -> bytes:
    """Return `data` without halves of surrogate pairs, NaN and Infinity."""
    data = _SURROGATE.sub(rb"\\ufffd", data, count=MAX_REPAIRS)
    for pattern in _NO_NUMBERS:
        data = pattern.sub(b"null", data, count=MAX_REPAIRS)
    return data


def without_controls(data: bytes) -> bytes:
    """Return `data` with a space for each control character."""
    return data.translate(_CONTROLS)


def documents_in(data: bytes) -> list[bytes]:
    """Return the lines of `data` that may be documents; none if there are too many lines.

    GLM and Kimi end some events of a stream with one line end, which is not their end by the rules:
    the data of several is one then, and what ends the stream may be among them.
    """
    if data.count(b"\n") >= MAX_DOCUMENT_LINES:
        return []
    return [line for line in data.split(b"\n") if line.strip() not in _NOTHING]
