"""Answers in the content codings that servers apply, as servers stream them."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest

ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_PIECE = 300  # bytes after which a server sends what it has compressed

Encode = Callable[[bytes], bytes]


def _flushed(compressor: Any, data: bytes, *flush: int) -> bytes:
    pieces = [
        compressor.compress(data[start : start + _PIECE]) + compressor.flush(*flush)
        for start in range(0, len(data), _PIECE)
    ]
    return b"".join([*pieces, compressor.flush()])


def _deflated(data: bytes, form: int) -> bytes:
    return _flushed(zlib.compressobj(wbits=form), data, zlib.Z_SYNC_FLUSH)


def gzipped(data: bytes) -> bytes:
    """A gzip of one member."""
    return _deflated(data, 31)


def gzipped_in_members(data: bytes) -> bytes:
    """A gzip of several members, an empty one among them, and padding."""
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:]) + b"\0\0"


def deflated(data: bytes) -> bytes:
    """Deflate as it should be."""
    return _deflated(data, 15)


def deflated_raw(data: bytes) -> bytes:
    """Deflate without zlib's wrapping."""
    return _deflated(data, -15)


def brotlied(data: bytes) -> bytes:
    """br, by the package brotli."""
    compressor = pytest.importorskip("brotli", reason="install the package brotli").Compressor()
    pieces = [
        compressor.process(data[start : start + _PIECE]) + compressor.flush()
        for start in range(0, len(data), _PIECE)
    ]
    return b"".join([*pieces, compressor.finish()])


def zstded(data: bytes) -> bytes:
    """Compress by zstd, of the standard library of Python 3.14 or of the package backports.zstd."""
    zstd = pytest.importorskip(ZSTD, reason="install the package backports.zstd")
    return bytes(zstd.compress(data))


def zstded_in_frames(data: bytes) -> bytes:
    """Zstd of three frames, an empty one among them."""
    third = len(data) // 3
    return zstded(data[:third]) + zstded(b"") + zstded(data[third:])


CODINGS: dict[str, tuple[bytes, Encode]] = {
    "gzip": (b"gzip", gzipped),
    "gzip-members": (b"x-gzip", gzipped_in_members),
    "deflate": (b"deflate", deflated),
    "deflate-raw": (b"Deflate", deflated_raw),
    "br": (b"br", brotlied),
    "zstd": (b"zstd", zstded),
    "zstd-frames": (b"zstd", zstded_in_frames),
    "two": (b"identity, gzip ,DEFLATE", lambda data: deflated(gzipped(data))),
}
# Those in which an answer can end only at its end.
WHOLE = {
    name: coding for name, coding in CODINGS.items() if not name.endswith(("members", "frames"))
}
