"""The meter of compressed answers: decodes them, and lets the meter of what they say read that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .bounds import DECODED, DECODED_A_BYTE, DECODED_AT_FIRST
from .encodings import CorruptError, Decoder
from .ledger import Ledger
from .protocol import UsageMeter


class EncodedMeter:
    """Reads an answer through the content codings that were applied to it.

    What is corrupt, or says much more than its size or more than `most` bytes in all, is counted as
    unreadable once, and no more of it is decoded; what it has said before counts.

    Args:
        meter: Reads what the answer says.
        decoders: Undo the codings, in this order.
        most: Bytes that are decoded at the most, those between two codings included.
    """

    __slots__ = (
        "_begun",
        "_decoders",
        "_left",
        "_meter",
        "_reserve",
        "_stopped",
        "ledger",
        "waiting",
    )

    def __init__(
        self, meter: UsageMeter, decoders: Sequence[Decoder], *, most: int = DECODED
    ) -> None:
        self.ledger: Ledger = meter.ledger
        self.waiting = meter.waiting
        self._meter = meter
        self._decoders = decoders
        self._left = min(most, DECODED_AT_FIRST)  # bytes that may be decoded now
        self._reserve = most - self._left  # and those that what comes may add to them
        self._begun = False
        self._stopped = False

    def feed(self, chunk: bytes) -> None:
        """Look at what `chunk` says."""
        if self._stopped or not chunk:
            return
        self._begun = True
        earned = min(DECODED_A_BYTE * len(chunk), self._reserve)
        self._reserve -= earned
        self._left += earned
        try:
            for piece in self._decoded(bytes(chunk), 0):  # applications send any kind of them
                self._meter.feed(piece)
        except CorruptError:
            self._stopped = True
        self.waiting = self._meter.waiting

    def _decoded(self, data: bytes, step: int) -> Iterator[bytes]:
        if step == len(self._decoders):
            yield data
            return
        for piece in self._decoders[step].feed(data):
            self._left -= len(piece)
            if self._left < 0:
                raise CorruptError("it says more than will be decoded")
            yield from self._decoded(piece, step + 1)

    def finish(self, *, complete: bool) -> None:
        """Look at what is left; what ends inside a coding has not come to its end."""
        ended = not self._stopped and all(decoder.ended for decoder in self._decoders)
        self._meter.finish(complete=complete and ended)
        self.waiting = self._meter.waiting
        if self._stopped or (complete and self._begun and not ended):
            self.ledger.unreadable += 1


class UnreadMeter:
    """Stands for an answer in a coding that cannot be undone here: its usage is missing."""

    __slots__ = ("ledger", "waiting")

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.waiting = False

    def feed(self, chunk: bytes) -> None:
        """Look at nothing."""

    def finish(self, *, complete: bool) -> None:
        """Tell whether the body came to its end, which is all that is known of it."""
        self.ledger.complete = complete
