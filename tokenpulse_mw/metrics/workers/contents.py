"""What a whole file of rows holds: its head, and as many whole rows as it has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .entries import INTEGER, Found, Kind, unpacked

# How many bytes are used, as an integer; then four bytes that prometheus_client leaves unused, in
# which we keep a stamp: what was read of a file is known to be still there by its stamp.
HEAD = 8


class Used(NamedTuple):
    """The used part of a file.

    Attributes:
        data: Its bytes, head and all; a multiple of 8.
        stamp: The stamp of its head.
        damage: Why the file cannot be whole, or None.
    """

    data: bytes
    stamp: bytes
    damage: str | None


class Contents(NamedTuple):
    """What was found in the used part of a file.

    Attributes:
        rows: Whole rows, as they lie in the file.
        end: The first byte behind them.
        damage: Why no more could be read, or None.
    """

    rows: list[Found]
    end: int
    damage: str | None


def read_used(path: Path) -> Used:
    """The used part of the file at `path`, while others may be writing to it.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        # The length comes first: what it covers is written before the length is.
        head = os.pread(file.fileno(), HEAD, 0)
        length = INTEGER.unpack_from(head)[0] if len(head) == HEAD else 0
        there = max(0, min(length, os.fstat(file.fileno()).st_size)) // 8 * 8
        data = os.pread(file.fileno(), there, 0)
    damage = None
    if length < HEAD or len(data) != length:
        damage = f"{length} bytes of it are said to be used, of which {len(data)} are there"
    return Used(data, head[INTEGER.size :], damage)


def contents(used: Used, kind: Kind, start: int = HEAD) -> Contents:
    """The rows in the used part of a file, from byte `start` on."""
    rows: list[Found] = []
    damage = used.damage
    try:
        for found in unpacked(used.data, kind, start):
            rows.append(found)  # noqa: PERF402 - those before the damage are kept
    except ValueError as error:
        damage = damage or str(error)
    return Contents(rows, rows[-1].end if rows else start, damage)
