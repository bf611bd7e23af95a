"""gzip and deflate, by the standard library."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from ..bounds import MAX_COMPRESSED_FRAMES
from ..budget import slices
from .decoder import PIECE, SIP, CorruptError, one_less

_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15  # by zlib's numbers
_PADDING = b"\0"  # may stand behind each member of a gzip


class Gzip:
    """gzip, of one member or of several."""

    def __init__(self) -> None:
        self._left = MAX_COMPRESSED_FRAMES
        self._inflate = zlib.decompressobj(_GZIP)

    @property
    def ended(self) -> bool:
        """What has come may end here."""
        return self._inflate.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` says, piece by piece."""
        for sip in slices(data, SIP):
            if self._inflate.eof:
                sip = sip.lstrip(_PADDING)
            while sip:
                if self._inflate.eof:
                    self._left = one_less(self._left)
                    self._inflate = zlib.decompressobj(_GZIP)
                yield from _inflated(self._inflate, sip)
                sip = self._inflate.unused_data.lstrip(_PADDING)


class Deflate:
    """deflate in zlib's wrapping, as it should be, or without it, as some servers send it."""

    def __init__(self) -> None:
        self._head = b""
        self._inflate: zlib._Decompress | None = None

    @property
    def ended(self) -> bool:
        """What has come may end here."""
        return self._inflate is not None and self._inflate.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` says, piece by piece."""
        if self._inflate is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return
            wrapped = data[0] & 15 == 8 and not int.from_bytes(data[:2]) % 31
            self._inflate = zlib.decompressobj(_ZLIB if wrapped else _RAW_DEFLATE)
        for sip in slices(data, SIP):
            if not self._inflate.eof:
                yield from _inflated(self._inflate, sip)


def _inflated(inflate: Any, sip: bytes) -> Iterator[bytes]:
    """What `sip` says; all of it has been taken in then, but for what follows the end."""
    try:
        full = True
        while sip or full:  # a full piece may have left something behind inside
            if piece := inflate.decompress(sip, PIECE):
                yield piece
            sip, full = inflate.unconsumed_tail, len(piece) == PIECE
    except zlib.error as error:
        raise CorruptError(str(error)) from error
