"""What every meter can do."""

from __future__ import annotations

from typing import Protocol

from .ledger import Ledger


class UsageMeter(Protocol):
    """Reads one answer as it passes.

    Attributes:
        ledger: What the answer has said of its cost.
    """

    ledger: Ledger

    @property
    def waiting(self) -> bool:
        """Whether the model's first words, whose time is of interest, are still to come.

        It stays so where an answer comes all at once.
        """
        ...

    def feed(self, chunk: bytes, /) -> None:
        """Look at the next bytes of the body, in any chunking."""
        ...

    def finish(self, *, complete: bool) -> None:
        """Look at what is left; `complete` says whether the body came to its end."""
        ...
