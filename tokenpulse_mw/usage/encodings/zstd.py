"""zstd, by the standard library of Python 3.14 or by a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .decoder import MOST_FRAMES, PIECE, SIP, CorruptError, Make, one_less, sips

_TINY_SIP = 64  # where the output cannot be bounded: zstd says at most 128 KiB in four bytes
_WINDOW_LOG = 23  # it may look back 8 MiB, as RFC 9659 has it


def find_zstd(load: Callable[[str], Any]) -> Make | None:
    """The decoder of zstd, or None where no package has one."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            module = load(name)
        except ImportError:
            continue
        options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return partial(
            _Zstd, partial(module.ZstdDecompressor, options=options), module.ZstdError, SIP
        )
    try:
        module = load("zstandard")
    except ImportError:
        return None
    return partial(_Zstd, partial(_Zstandard, module), module.ZstdError, _TINY_SIP)


class _Zstd:
    """zstd, of one frame or of several, by the standard library's interface."""

    def __init__(self, make: Callable[[], Any], error: type[Exception], sip: int) -> None:
        self._make, self._error, self._sip = make, error, sip
        self._left = MOST_FRAMES
        self._frame = make()

    @property
    def ended(self) -> bool:
        return bool(self._frame.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for sip in sips(data, self._sip):
                while sip:
                    if self._frame.eof:
                        self._left = one_less(self._left)
                        self._frame = self._make()
                    yield from self._frame_says(sip)
                    sip = self._frame.unused_data
        except self._error as error:
            raise CorruptError(str(error)) from error

    def _frame_says(self, sip: bytes) -> Iterator[bytes]:
        more = True
        while more:
            if piece := self._frame.decompress(sip, PIECE):
                yield piece
            sip = b""
            more = not (self._frame.eof or self._frame.needs_input)


class _Zstandard:
    """A frame of the package zstandard, under the standard library's interface.

    It cannot bound what comes out, so that it must be fed in sips.
    """

    needs_input = True

    def __init__(self, module: Any) -> None:
        self._frame = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data)

    def decompress(self, data: bytes, _longest: int) -> bytes:
        return bytes(self._frame.decompress(data))
