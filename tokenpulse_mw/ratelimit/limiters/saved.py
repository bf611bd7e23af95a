"""Windows of keys in a form that a store can keep over a restart."""

from __future__ import annotations

from typing import NamedTuple


class SavedWindow(NamedTuple):
    """Usage of one key.

    Attributes:
        key: Key as `encode_key` encodes it.
        used: Requests, tokens or micro-dollars.
        ends: End of the window, in seconds since the epoch.
    """

    key: bytes
    used: int
    ends: float
