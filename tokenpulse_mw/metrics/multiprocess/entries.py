"""File format of the rows: the `.db` files of prometheus_client.

An entry is a length, a key of that length (JSON: family, sample, labels, help), spaces up to a
multiple of 8 bytes, then a value and a timestamp as doubles. The row of a histogram is several
entries: its sum, then the count of each bucket, not cumulative. Their keys are padded with spaces,
which JSON ignores, to the same length. So the values of a row are one strided slice of the doubles
of the file.
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

Kind = Literal["counter", "gauge", "max", "histogram"]  # one file each; max: gauges merged by max
LabelValues = tuple[str, ...]

INTEGER = Struct("i")
_VALUE = bytes(16)  # value 0 and timestamp 0
_LE = b'"le":""'

_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(tuple[str, str, dict[str, str], str]).decode


class StoredRow(NamedTuple):
    """Row in a file.

    Attributes:
        family: Family, as described by the keys of the entries.
        labels: Label values.
        values: Slice of its values in the doubles of the file.
        end: Offset of the first byte after it.
    """

    family: Family
    labels: LabelValues
    values: slice
    end: int


class _Entry(NamedTuple):
    sample: str
    labels: dict[str, str]
    help: str
    start: int
    size: int


def file_kind(family: Family) -> Kind:
    """Return the kind of file that holds the rows of `family`."""
    return family.kind if family.merge == "sum" else "max"


def as_text(labels: tuple[Any, ...]) -> LabelValues:
    """Return label values as valid UTF-8 text."""
    return tuple(str(value).encode(errors="replace").decode() for value in labels)


def pack_row(family: Family, labels: LabelValues) -> bytes:
    """Return the entries of a new row; all values are 0."""
    keys = _keys(family, labels)
    length = max(map(len, keys))
    padding = b" " * (_size(length) - INTEGER.size - length - len(_VALUE))
    head = INTEGER.pack(length)
    return b"".join(head + key.ljust(length) + padding + _VALUE for key in keys)


def value_slice(start: int, size: int, entries: int) -> slice:
    """Return the slice of the values of entries of `size` bytes, in the doubles of a file."""
    first = (start + size - len(_VALUE)) // 8
    return slice(first, first + (entries - 1) * size // 8 + 1, size // 8)


def unpack_rows(data: bytes, kind: Kind, start: int) -> Iterator[StoredRow]:
    """Yield the rows in `data` from the offset `start` on.

    Raises:
        ValueError: An entry is incomplete, or does not belong to a row of this format.
    """
    known: dict[str, Family] = {}
    while start < len(data):
        head = _entry(data, start)
        family = known.get(head.sample)
        if family is None or not _is_row_of(family, data, head):
            family = known[head.sample] = _family(data, head, kind)
        width = family.width
        values = value_slice(start, head.size, width)
        end = start + width * head.size
        yield StoredRow(family, tuple(head.labels.values()), values, end)
        start = end


def _size(length: int) -> int:
    # prometheus_client always adds at least one space.
    return INTEGER.size + length + 8 - (INTEGER.size + length) % 8 + len(_VALUE)


def _keys(family: Family, labels: LabelValues) -> list[bytes]:
    named = dict(zip(family.labels, labels, strict=True))
    name, kind, text = family.name, family.kind, family.help
    if kind != "histogram":
        metric = name.removesuffix("_total") if kind == "counter" else name
        return [_encode((metric, name, named, text))]
    bucket = _encode((name, f"{name}_bucket", {**named, "le": ""}, text))
    before, _, after = bucket.partition(_LE)  # JSON escapes quotes, so no label contains this
    buckets = [b'%b"le":"%b"%b' % (before, _le(bound), after) for bound in (*family.buckets, inf)]
    return [_encode((name, f"{name}_sum", named, text)), *buckets]


@lru_cache(maxsize=256)
def _le(bound: float) -> bytes:
    return str(floatToGoString(bound)).encode()  # type: ignore[no-untyped-call]


def _entry(data: bytes, start: int) -> _Entry:
    length = INTEGER.unpack_from(data, start)[0] if start < len(data) else -1
    size = _size(length)
    if length < 0 or start + size > len(data):
        raise ValueError(f"incomplete entry at byte {start}")
    key = start + INTEGER.size
    _, sample, labels, text = _decode(data[key : key + length])
    return _Entry(sample, labels, text, start, size)


def _is_row_of(family: Family, data: bytes, head: _Entry) -> bool:
    """Return True if the row at `head` is exactly as `pack_row` writes a row of `family`.

    This is faster than to parse each entry of the row.
    """
    width = family.width
    row = bytearray(data[head.start : head.start + width * head.size])
    if tuple(head.labels) != family.labels or len(row) != width * head.size:
        return False
    zeros = memoryview(bytes(8 * width)).cast("d")
    memoryview(row).cast("d")[value_slice(0, head.size, width)] = zeros
    return row == pack_row(family, tuple(head.labels.values()))


def _family(data: bytes, head: _Entry, kind: Kind) -> Family:
    """Return the family of the row at `head`, parsed from all of its entries."""
    labels = tuple(head.labels)
    if kind != "histogram":
        if kind == "max":
            return Family(head.sample, "gauge", head.help, labels, merge="max")
        return Family(head.sample, kind, head.help, labels)
    name = head.sample.removesuffix("_sum")
    bounds = [-inf]
    while bounds[-1] != inf:
        bucket = _entry(data, head.start + len(bounds) * head.size)
        bound = float(bucket.labels.pop("le", "nan"))
        expected = (f"{name}_bucket", head.labels, head.size)
        if (bucket.sample, bucket.labels, bucket.size) != expected or not bounds[-1] < bound:
            raise ValueError(f"invalid histogram at byte {head.start}")
        bounds.append(bound)
    return Family(name, kind, head.help, labels, tuple(bounds[1:-1]))


# The number of used bytes, then a random stamp in four bytes that prometheus_client ignores:
# as long as it is the same, rows that were read before are still at their offsets.
HEAD_BYTES = 8


class UsedPart(NamedTuple):
    """Used part of a file.

    Attributes:
        data: Its bytes, including the head; a multiple of 8.
        stamp: Stamp in the head.
        damage: Reason why the file is incomplete, or None.
    """

    data: bytes
    stamp: bytes
    damage: str | None


class Contents(NamedTuple):
    """Rows of a file.

    Attributes:
        rows: Complete rows, in the order of the file.
        end: Offset of the first byte after them.
        damage: Reason why further rows cannot be read, or None.
    """

    rows: list[StoredRow]
    end: int
    damage: str | None


def read_used(path: Path) -> UsedPart:
    """Read the used part of a file that may be written to at the same time.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        # Read the length before the rows: a writer writes rows before the length.
        head = os.pread(file.fileno(), HEAD_BYTES, 0)
        length = INTEGER.unpack_from(head)[0] if len(head) == HEAD_BYTES else 0
        available = max(0, min(length, os.fstat(file.fileno()).st_size)) // 8 * 8
        data = os.pread(file.fileno(), available, 0)
    damage = None
    if length < HEAD_BYTES or len(data) != length:
        damage = f"the header states {length} used bytes, but {len(data)} can be read"
    return UsedPart(data, head[INTEGER.size :], damage)


def parse_rows(used: UsedPart, kind: Kind, start: int = HEAD_BYTES) -> Contents:
    """Parse the rows of a file from the offset `start` on, up to the first damage."""
    rows: list[StoredRow] = []
    damage = used.damage
    try:
        for row in unpack_rows(used.data, kind, start):
            rows.append(row)  # noqa: PERF402 - rows before the damage are kept
    except ValueError as error:
        damage = damage or str(error)
    return Contents(rows, rows[-1].end if rows else start, damage)
