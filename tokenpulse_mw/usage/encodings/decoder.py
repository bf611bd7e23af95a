"""What every decoder can do, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

PIECE = 64 * 1024  # bytes that are handed on at once
SIP = 4 * 1024  # bytes that are taken in at once: what is left of them is copied at each step


class CorruptError(Exception):
    """Bytes that are not what their coding says."""


class Decoder(Protocol):
    """Undoes one content coding."""

    @property
    def ended(self) -> bool:
        """What has come may end here."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` says, piece by piece.

        Raises:
            CorruptError: It says nothing in this coding; the pieces handed on before are good.
        """
        ...


Make = Callable[[], Decoder]


def one_less(left: int) -> int:
    """What is left of the frames that will be decoded, when one more has begun.

    Raises:
        CorruptError: None is left.
    """
    if not left:
        raise CorruptError("it has more frames than will be decoded")
    return left - 1
