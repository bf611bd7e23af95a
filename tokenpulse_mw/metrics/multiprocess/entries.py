"""Rows as the entries of prometheus_client's `.db` files, and entries as rows.

An entry is a length, a key of that length (JSON: family, sample, labels, help), blanks up to a
multiple of 8 bytes, then a value and a timestamp as doubles. A histogram's row is several entries:
its sum, then each bucket's count, not cumulative. Their keys are padded with blanks, which JSON
ignores, to one length: so the values of a row lie at equal distances and are one strided slice of
the file's doubles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from math import inf
from pathlib import Path
from struct import Struct
from typing import Any, Literal, NamedTuple

import msgspec
from prometheus_client.utils import floatToGoString

from ..families import Family

Kind = Literal["counter", "gauge", "least", "histogram"]  # each has a file; least is a gauge too


LabelPairs = tuple[str, ...]


INTEGER = Struct("i")


_VALUE = bytes(16)  # a value of 0 and no timestamp


_LE = b'"le":""'


_encode = msgspec.json.encode


_decode = msgspec.json.Decoder(tuple[str, str, dict[str, str], str]).decode


class StoredRow(NamedTuple):
    """A row that a file holds.

    Attributes:
        family: As its keys tell it.
        labels: Its label values.
        place: Where its values are among the doubles of the file.
        end: The first byte behind it.
    """

    family: Family
    labels: LabelPairs
    place: slice
    end: int


class _Entry(NamedTuple):
    sample: str
    labels: dict[str, str]
    help: str
    start: int
    size: int


def kind_of(family: Family) -> Kind:
    """In which of a worker's files the rows of `family` are."""
    return "least" if family.merge == "min" else family.kind


def as_text(labels: tuple[Any, ...]) -> LabelPairs:
    """Label values as they are written: each is text that UTF-8 can hold."""
    return tuple(str(value).encode(errors="replace").decode() for value in labels)


def packed(family: Family, labels: LabelPairs) -> bytes:
    """The entries of a new row, all values 0."""
    keys = _keys(family, labels)
    longest = max(map(len, keys))
    blanks = b" " * (_size(longest) - INTEGER.size - longest - len(_VALUE))
    head = INTEGER.pack(longest)
    return b"".join(head + key.ljust(longest) + blanks + _VALUE for key in keys)


def width(family: Family) -> int:
    """How many values a row of `family` has."""
    return 1 if family.kind != "histogram" else 1 + len(family.buckets) + 1


def place(start: int, size: int, entries: int) -> slice:
    """Where the values of so many entries of `size` bytes are, among the doubles of a file."""
    first = (start + size - len(_VALUE)) // 8
    return slice(first, first + (entries - 1) * size // 8 + 1, size // 8)


def unpacked(data: bytes, kind: Kind, start: int) -> Iterator[StoredRow]:
    """The rows in `data` from byte `start` on.

    Raises:
        ValueError: There is something that is no row of ours, or not a whole one.
    """
    seen: dict[str, Family] = {}
    while start < len(data):
        head = _entry(data, start)
        family = seen.get(head.sample)
        if family is None or not _is_row_of(family, data, head):
            family = seen[head.sample] = _family(data, head, kind)
        values = width(family)
        end = start + values * head.size
        yield StoredRow(family, tuple(head.labels.values()), place(start, head.size, values), end)
        start = end


def _size(length: int) -> int:
    # There is always at least one blank, so that what follows is aligned.
    return INTEGER.size + length + 8 - (INTEGER.size + length) % 8 + len(_VALUE)


def _keys(family: Family, labels: LabelPairs) -> list[bytes]:
    named = dict(zip(family.labels, labels, strict=True))
    name, kind, text = family.name, family.kind, family.help
    if kind != "histogram":
        metric = name.removesuffix("_total") if kind == "counter" else name
        return [_encode((metric, name, named, text))]
    bucket = _encode((name, f"{name}_bucket", {**named, "le": ""}, text))
    before, _, after = bucket.partition(_LE)  # elsewhere a quote has a backslash before it
    buckets = [b'%b"le":"%b"%b' % (before, _le(bound), after) for bound in (*family.buckets, inf)]
    return [_encode((name, f"{name}_sum", named, text)), *buckets]


@lru_cache(maxsize=256)
def _le(bound: float) -> bytes:
    return str(floatToGoString(bound)).encode()  # type: ignore[no-untyped-call]


def _entry(data: bytes, start: int) -> _Entry:
    length = INTEGER.unpack_from(data, start)[0] if start < len(data) else -1
    size = _size(length)
    if length < 0 or start + size > len(data):
        raise ValueError(f"the entry at byte {start} is not whole")
    key = start + INTEGER.size
    _, sample, labels, text = _decode(data[key : key + length])
    return _Entry(sample, labels, text, start, size)


def _is_row_of(family: Family, data: bytes, head: _Entry) -> bool:
    """Whether the row that `head` begins is as we would write it.

    That is cheaper to find out than what each of its entries says.
    """
    values = width(family)
    row = bytearray(data[head.start : head.start + values * head.size])
    if tuple(head.labels) != family.labels or len(row) != values * head.size:
        return False
    memoryview(row).cast("d")[place(0, head.size, values)] = memoryview(bytes(8 * values)).cast("d")
    return row == packed(family, tuple(head.labels.values()))


def _family(data: bytes, head: _Entry, kind: Kind) -> Family:
    """The family of the row that `head` begins, by all of its entries."""
    labels = tuple(head.labels)
    if kind != "histogram":
        if kind == "least":
            return Family(head.sample, "gauge", head.help, labels, merge="min")
        return Family(head.sample, kind, head.help, labels)
    name = head.sample.removesuffix("_sum")
    bounds = [-inf]
    while bounds[-1] != inf:
        bucket = _entry(data, head.start + len(bounds) * head.size)
        bound = float(bucket.labels.pop("le", "nan"))
        ours = (f"{name}_bucket", head.labels, head.size)
        if (bucket.sample, bucket.labels, bucket.size) != ours or not bounds[-1] < bound:
            raise ValueError(f"the row at byte {head.start} is not one of ours")
        bounds.append(bound)
    return Family(name, kind, head.help, labels, tuple(bounds[1:-1]))


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

    rows: list[StoredRow]
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
    rows: list[StoredRow] = []
    damage = used.damage
    try:
        for found in unpacked(used.data, kind, start):
            rows.append(found)  # noqa: PERF402 - those before the damage are kept
    except ValueError as error:
        damage = damage or str(error)
    return Contents(rows, rows[-1].end if rows else start, damage)
