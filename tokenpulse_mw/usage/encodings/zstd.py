"""zstd, by the standard library of Python 3.14 or by the package backports.zstd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..bounds import MAX_COMPRESSED_FRAMES, MAX_WINDOW_LOG_ZSTD
from ..budget import slices
from .decoder import PIECE, SIP, CorruptError, Make, one_less


def find_zstd(load: Callable[[str], Any]) -> Make | None:
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
        self._make = partial(module.ZstdDecompressor, options=options)
        self._error = module.ZstdError
        self._left = MAX_COMPRESSED_FRAMES
        self._frame = self._make()

    @property
    def ended(self) -> bool:
        return bool(self._frame.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for sip in slices(data, SIP):
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
