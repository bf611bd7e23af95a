"""Decoders of content codings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Protocol

from .bounds import MAX_CODINGS, MAX_COMPRESSED_FRAMES, MAX_WINDOW_LOG_BROTLI, MAX_WINDOW_LOG_ZSTD
from .budget import slices

# Not codings; only the first is registered, the others are sent by some servers.
_PLAIN = (b"identity", b"none", b"utf-8")
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15  # window sizes (wbits) of zlib
_PADDING = b"\0"  # may follow each member of a gzip

MAX_PIECE_BYTES = 64 * 1024  # returned at once
MAX_INPUT_BYTES = 4 * 1024  # consumed at once: the rest is copied at each step


class CorruptError(Exception):
    """Bytes that are invalid in their coding, or exceed a bound."""


class Decoder(Protocol):
    """Undoes one content coding."""

    @property
    def ended(self) -> bool:
        """Return True if the input may end here."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded `data` in pieces.

        Raises:
            CorruptError: `data` is invalid; the pieces yielded before are valid.
        """
        ...


DecoderFactory = Callable[[], Decoder]


def decoders_for(
    encoding: bytes, load: Callable[[str], Any] = import_module
) -> list[DecoderFactory] | None:
    """Return the decoders of a Content-Encoding in the order of use; None if one is unsupported.

    Args:
        encoding: The value of the header; the coding that was applied last is at its end.
        load: Imports a package by its name, or raises ImportError.
    """
    names = [name for part in encoding.lower().split(b",") if (name := part.strip(b" \t"))]
    factories: list[DecoderFactory] = []
    for name in reversed(names):
        if name in _PLAIN:
            continue
        factory = _factory_for(name, load)
        if factory is None or len(factories) == MAX_CODINGS:
            return None
        factories.append(factory)
    return factories


@lru_cache(maxsize=64)
def _factory_for(name: bytes, load: Callable[[str], Any]) -> DecoderFactory | None:
    if name in (b"gzip", b"x-gzip"):
        return Gzip
    if name == b"deflate":
        return Deflate
    if name == b"br":
        return find_brotli(load)
    return find_zstd(load) if name == b"zstd" else None


def find_brotli(load: Callable[[str], Any]) -> DecoderFactory | None:
    """Return the decoder of brotli, or None if no package has one with bounded output."""
    for name in ("brotli", "brotlicffi"):
        try:
            module = load(name)
            module.Decompressor().process(b"", output_buffer_limit=MAX_PIECE_BYTES)
        except (ImportError, TypeError):  # older versions cannot limit the output
            continue
        return partial(_Brotli, module)
    return None


class _Brotli:
    """Decoder of brotli; a stream whose window is larger than 4 MiB is rejected before it is read.

    The decoder allocates the window, whose size is in the first byte of the stream.
    """

    def __init__(self, module: Any) -> None:
        self._error = module.error
        self._stream = module.Decompressor()
        self._begun = False

    @property
    def ended(self) -> bool:
        return bool(self._stream.is_finished())

    def feed(self, data: bytes) -> Iterator[bytes]:
        if data and not self._begun:
            self._begun = True
            if window_log(data[0]) > MAX_WINDOW_LOG_BROTLI:
                raise CorruptError("brotli window is larger than 4 MiB")
        try:
            for chunk in slices(data, MAX_INPUT_BYTES):
                # The decoder consumes all input; further calls return the rest of the output.
                while not self._stream.is_finished():
                    if not (
                        piece := self._stream.process(chunk, output_buffer_limit=MAX_PIECE_BYTES)
                    ):
                        break
                    yield piece
                    chunk = b""
        except self._error as error:
            raise CorruptError(str(error)) from error


def window_log(first: int) -> int:
    """Return the binary logarithm of the window size in the first byte of a stream.

    The format is that of RFC 7932, section 9.1. The prefix of "large window" brotli, an extension
    with up to 1 GiB, is read as 63.
    """
    if not first & 1:
        return 16
    if high := first >> 1 & 7:
        return 17 + high
    low = first >> 4 & 7
    if low == 1:
        return 63
    return 8 + low if low else 17


def _count_frame(left: int) -> int:
    """Return how many more frames may be decoded after the next one.

    Raises:
        CorruptError: The limit is reached.
    """
    if not left:
        raise CorruptError(f"more than {MAX_COMPRESSED_FRAMES} frames")
    return left - 1


class Gzip:
    """gzip, of one member or of several."""

    def __init__(self) -> None:
        self._left = MAX_COMPRESSED_FRAMES
        self._inflate = zlib.decompressobj(_GZIP)

    @property
    def ended(self) -> bool:
        """Return True if the input may end here."""
        return self._inflate.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded `data` in pieces."""
        for chunk in slices(data, MAX_INPUT_BYTES):
            if self._inflate.eof:
                chunk = chunk.lstrip(_PADDING)
            while chunk:
                if self._inflate.eof:
                    self._left = _count_frame(self._left)
                    self._inflate = zlib.decompressobj(_GZIP)
                yield from _inflated(self._inflate, chunk)
                chunk = self._inflate.unused_data.lstrip(_PADDING)


class Deflate:
    """deflate with the zlib header that RFC 9110 requires, or without it, as some servers send."""

    def __init__(self) -> None:
        self._head = b""
        self._inflate: zlib._Decompress | None = None

    @property
    def ended(self) -> bool:
        """Return True if the input may end here."""
        return self._inflate is not None and self._inflate.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded `data` in pieces."""
        if self._inflate is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            wrapped = data[0] & 15 == 8 and not int.from_bytes(data[:2]) % 31
            self._inflate = zlib.decompressobj(_ZLIB if wrapped else _RAW_DEFLATE)
        for chunk in slices(data, MAX_INPUT_BYTES):
            if not self._inflate.eof:
                yield from _inflated(self._inflate, chunk)


def _inflated(inflate: Any, chunk: bytes) -> Iterator[bytes]:
    """Yield the decoded `chunk`, which is consumed up to the end of the stream."""
    try:
        full = True
        while chunk or full:  # after a full piece the decoder may hold more output
            if piece := inflate.decompress(chunk, MAX_PIECE_BYTES):
                yield piece
            chunk, full = inflate.unconsumed_tail, len(piece) == MAX_PIECE_BYTES
    except zlib.error as error:
        raise CorruptError(str(error)) from error


def find_zstd(load: Callable[[str], Any]) -> DecoderFactory | None:
    """Return the decoder of zstd, or None if no module has one."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return partial(_Zstd, load(name))
        except ImportError:
            continue
    return None


class _Zstd:
    """Decoder of one zstd frame or of several."""

    def __init__(self, module: Any) -> None:
        options = {module.DecompressionParameter.window_log_max: MAX_WINDOW_LOG_ZSTD}
        self._new_frame = partial(module.ZstdDecompressor, options=options)
        self._error = module.ZstdError
        self._left = MAX_COMPRESSED_FRAMES
        self._frame = self._new_frame()

    @property
    def ended(self) -> bool:
        return bool(self._frame.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for chunk in slices(data, MAX_INPUT_BYTES):
                while chunk:
                    if self._frame.eof:
                        self._left = _count_frame(self._left)
                        self._frame = self._new_frame()
                    yield from self._decode_frame(chunk)
                    chunk = self._frame.unused_data
        except self._error as error:
            raise CorruptError(str(error)) from error

    def _decode_frame(self, chunk: bytes) -> Iterator[bytes]:
        more = True
        while more:
            if piece := self._frame.decompress(chunk, MAX_PIECE_BYTES):
                yield piece
            chunk = b""
            more = not (self._frame.eof or self._frame.needs_input)
