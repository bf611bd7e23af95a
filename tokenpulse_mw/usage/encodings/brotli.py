"""brotli, by a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..bounds import MAX_WINDOW_LOG_BROTLI
from ..budget import slices
from .decoder import PIECE, SIP, CorruptError, Make


def find_brotli(load: Callable[[str], Any]) -> Make | None:
    """The decoder of brotli, or None where no package has one that can be bounded."""
    for name in ("brotli", "brotlicffi"):
        try:
            module = load(name)
            module.Decompressor().process(b"", output_buffer_limit=PIECE)
        except (ImportError, TypeError):  # older ones put no bound to what comes out
            continue
        return partial(_Brotli, module)
    return None


class _Brotli:
    """Decoder of brotli; a stream whose window is larger than 4 MiB is rejected before it is read.

    The decoder allocates the window, whose size the first byte of the stream states.
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
                raise CorruptError("its window is larger than 4 MiB")
        try:
            for sip in slices(data, SIP):
                # The decoder takes in all of it, and outputs the rest when it is called again.
                while not self._stream.is_finished():
                    if not (piece := self._stream.process(sip, output_buffer_limit=PIECE)):
                        break
                    yield piece
                    sip = b""
        except self._error as error:
            raise CorruptError(str(error)) from error


def window_log(first: int) -> int:
    """Return the binary logarithm of the window that the first byte of a stream states.

    RFC 7932, section 9.1. The prefix of "large window" brotli, which the RFC does not have, and
    which may state up to 1 GiB, is read as 63.
    """
    if not first & 1:
        return 16
    if high := first >> 1 & 7:
        return 17 + high
    low = first >> 4 & 7
    if low == 1:
        return 63
    return 8 + low if low else 17
