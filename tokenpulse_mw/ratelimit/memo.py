"""What was found out of a text once, and need not be found out again, in bounded memory."""

from __future__ import annotations

from typing import TypeVar

from ..exchange import LONGEST

T = TypeVar("T")

MOST = 4096  # texts


def remembered(memo: dict[str, T], text: str, value: T) -> T:
    """`value`, which `memo` has from now on for `text`; what is long is not kept."""
    if len(text) <= LONGEST:
        if len(memo) >= MOST:
            memo.clear()  # it only saves work
        memo[text] = value
    return value
