"""Content codings, applied as by servers that stream."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest

ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_FLUSH_BYTES = 300  # of a body, after which a server flushes the compressor

Encode = Callable[[bytes], bytes]


def _flushed(compressor: Any, data: bytes, *flush: int) -> bytes:
    parts = [
        compressor.compress(data[start : start + _FLUSH_BYTES]) + compressor.flush(*flush)
        for start in range(0, len(data), _FLUSH_BYTES)
    ]
    return b"".join([*parts, compressor.flush()])


def _deflated(data: bytes, wbits: int) -> bytes:
    return _flushed(zlib.compressobj(wbits=wbits), data, zlib.Z_SYNC_FLUSH)


def gzipped(data: bytes) -> bytes:
    """Return gzip of one member."""
    return _deflated(data, 31)


def gzipped_in_members(data: bytes) -> bytes:
    """Return gzip of three members, of which one is empty, with padding."""
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:]) + b"\0\0"


def deflated(data: bytes) -> bytes:
    """Return deflate in the zlib format, as specified."""
    return _deflated(data, 15)


def deflated_raw(data: bytes) -> bytes:
    """Return deflate without the zlib format."""
    return _deflated(data, -15)


def brotlied(data: bytes) -> bytes:
    """Return br, compressed by the package brotli."""
    compressor = pytest.importorskip("brotli", reason="install the package brotli").Compressor()
    parts = [
        compressor.process(data[start : start + _FLUSH_BYTES]) + compressor.flush()
        for start in range(0, len(data), _FLUSH_BYTES)
    ]
    return b"".join([*parts, compressor.finish()])


def zstded(data: bytes) -> bytes:
    """Return zstd, compressed by Python 3.14 or by the package backports.zstd."""
    zstd = pytest.importorskip(ZSTD, reason="install the package backports.zstd")
    return bytes(zstd.compress(data))


def zstded_in_frames(data: bytes) -> bytes:
    """Return zstd of three frames, of which one is empty."""
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
# Codings in which every cut can be detected.
WHOLE = {
    name: coding for name, coding in CODINGS.items() if not name.endswith(("members", "frames"))
}
