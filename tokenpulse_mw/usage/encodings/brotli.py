"""brotli, by a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .decoder import PIECE, CorruptError, Make


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
    """brotli, which looks back at most 16 MiB."""

    def __init__(self, module: Any) -> None:
        self._error = module.error
        self._stream = module.Decompressor()

    @property
    def ended(self) -> bool:
        return bool(self._stream.is_finished())

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            # It takes all in, and says what of it there is no room for when it is asked again.
            while not self._stream.is_finished():
                if not (piece := self._stream.process(data, output_buffer_limit=PIECE)):
                    break
                yield piece
                data = b""
        except self._error as error:
            raise CorruptError(str(error)) from error
