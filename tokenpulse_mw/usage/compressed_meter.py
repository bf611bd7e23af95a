"""Meter of compressed responses: decodes them for the meter of their media type."""

from __future__ import annotations

from collections.abc import Sequence

from .account import UsageAccount, UsageMeter
from .bounds import (
    COMPRESSED_BYTE_WORK_NS,
    DECODED_BYTE_WORK_NS,
    MAX_DECODED_AT_FIRST_BYTES,
    MAX_DECODED_BYTES,
    MAX_DECODED_PER_BYTE_BYTES,
)
from .budget import slices
from .decompress import CorruptError, Decoder


class CompressedMeter:
    """Decodes the content codings of a response, and passes it to another meter.

    Corrupt data, or data that decodes to too many bytes, is counted as unreadable once, and
    decoding stops; usage reported before counts.

    Args:
        meter: Reads the decoded response.
        decoders: Decoders, in the order of use.
        max_bytes: Maximum number of decoded bytes, including those between two codings.
    """

    __slots__ = (
        "_begun",
        "_budget",
        "_corrupt",
        "_decoders",
        "_left",
        "_meter",
        "_reserve",
        "account",
        "awaits_output",
    )

    def __init__(
        self, meter: UsageMeter, decoders: Sequence[Decoder], *, max_bytes: int = MAX_DECODED_BYTES
    ) -> None:
        self.account: UsageAccount = meter.account
        self.awaits_output = meter.awaits_output
        self._meter = meter
        self._decoders = decoders
        self._left = min(max_bytes, MAX_DECODED_AT_FIRST_BYTES)  # bytes that may be decoded now
        self._reserve = max_bytes - self._left  # bytes that further input may add to them
        self._begun = False
        self._corrupt = False
        self._budget = meter.account.budget
        self._budget.encoded = True

    def feed(self, chunk: bytes) -> None:
        """Decode `chunk` and examine the result."""
        if not chunk or not self._decoders:
            return
        self._begun = True
        earned = min(MAX_DECODED_PER_BYTE_BYTES * len(chunk), self._reserve)
        self._reserve -= earned
        self._left += earned
        self._budget.start(len(chunk), encoded=True)
        try:
            data = bytes(chunk)  # applications may send any bytes-like object
            for piece in slices(data):
                self._decode(piece, 0)
        except CorruptError:
            self._corrupt = True
            self._decoders = ()
        if self._budget.exhausted:
            self._decoders = ()
        self.awaits_output = self._meter.awaits_output

    def _decode(self, data: bytes, step: int) -> None:
        """Decode `data` with the decoder at the index `step`, and with those after it."""
        spend = self._budget.spend
        if not spend(COMPRESSED_BYTE_WORK_NS * len(data)):
            return
        for piece in self._decoders[step].feed(data):
            size = len(piece)
            self._left -= size
            if self._left < 0:
                raise CorruptError("more decoded bytes than the limit")
            if not spend(DECODED_BYTE_WORK_NS * size):
                return
            if step + 1 < len(self._decoders):
                self._decode(piece, step + 1)
            else:
                self._meter.feed(piece)

    def finish(self, *, complete: bool) -> None:
        """Finish the meter; a body that ends inside a coding is not complete."""
        decoders = self._decoders
        ended = bool(decoders) and all(decoder.ended for decoder in decoders)
        self._decoders = ()
        self._budget.start(0, encoded=True)
        self._meter.finish(complete=complete and ended)
        self.awaits_output = self._meter.awaits_output
        cut = complete and self._begun and not ended and not self._budget.exhausted
        self.account.unreadable += self._corrupt or cut


class UnsupportedEncodingMeter:
    """Placeholder for a response in an unsupported coding: its usage is missing."""

    __slots__ = ("account", "awaits_output")

    def __init__(self) -> None:
        self.account = UsageAccount()
        self.awaits_output = False

    def feed(self, chunk: bytes) -> None:
        """Ignore the chunk."""

    def finish(self, *, complete: bool) -> None:
        """Record whether the body is complete."""
        self.account.complete = complete
