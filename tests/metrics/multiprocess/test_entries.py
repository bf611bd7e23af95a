"""File format of the rows."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.multiprocess.entries import (
    INTEGER,
    Kind,
    StoredRow,
    as_text,
    file_kind,
    pack_row,
    unpack_rows,
    value_slice,
)

from .samples import COUNTER, GAUGE, HISTOGRAM

WORDS = st.text('aé\U0001f600"\\\n\0 ,:{}[]', max_size=10)
KINDS: list[Kind] = ["counter", "gauge", "max", "histogram"]


@st.composite
def families(draw: st.DrawFn) -> tuple[Family, tuple[str, ...]]:
    """Draw a family with label values."""
    kind = draw(st.sampled_from(KINDS))
    labels = draw(st.sampled_from([(), ("a",), ("status", "route"), ("c", "b", "a")]))
    bounds = st.lists(st.floats(-1e9, 1e9), unique=True, max_size=5)
    buckets = tuple(sorted(draw(bounds))) if kind == "histogram" else ()
    family = Family("some_total", "counter", draw(WORDS), labels, buckets)
    if kind == "max":
        family = family._replace(kind="gauge", merge="max")
    else:
        family = family._replace(kind=kind)
    return family, tuple(draw(WORDS) for _ in labels)


def keys(entries: bytes) -> list[tuple[str, str, dict[str, str], str]]:
    """Return the keys in `entries`, parsed as in prometheus_client."""
    result, start = [], 0
    while start < len(entries):
        (length,) = INTEGER.unpack_from(entries, start)
        result.append(tuple(json.loads(entries[start + 4 : start + 4 + length])))
        start += 4 + length + 8 - (4 + length) % 8 + 16
    return result


@given(st.lists(families(), max_size=4))
def test_pack_and_unpack_round_trip(rows: list[tuple[Family, tuple[str, ...]]]) -> None:
    """Families, label values and offsets are preserved for any text."""
    for kind in KINDS:
        written = [row for row in rows if file_kind(row[0]) == kind]
        data = b"".join(pack_row(*row) for row in written)
        read = list(unpack_rows(data, kind, 0))
        assert [row[:2] for row in read] == written
        assert [row.end for row in read][-1:] == [len(data)][: len(written)]


def test_histogram_is_a_sum_and_its_buckets() -> None:
    """Keys and bounds are those of prometheus_client."""
    labels = {"name": "a"}

    assert keys(pack_row(HISTOGRAM, ("a",))) == [
        ("job_seconds", "job_seconds_sum", labels, "Time"),
        *[
            ("job_seconds", "job_seconds_bucket", {**labels, "le": le}, "Time")
            for le in ("0.5", "1.0", "1e+06", "+Inf")
        ],
    ]


def test_counter_key_has_total_only_in_the_sample() -> None:
    """The metric name in the key of a counter has no suffix."""
    (key,) = keys(pack_row(COUNTER, ("a", "ok")))

    assert key == ("jobs", "jobs_total", {"name": "a", "status": "ok"}, "Jobs")


def test_values_of_a_row_are_one_slice() -> None:
    """The values of a row have a constant stride, and the sum of a histogram is first."""
    data = bytearray(pack_row(HISTOGRAM, ("a name",)))
    doubles = memoryview(data).cast("d")
    row = doubles[value_slice(0, len(data) // 5, 5)]

    row[0], row[4] = 2.5, 3.0

    assert list(row) == [2.5, 0, 0, 0, 3]
    ((_, _, values, _),) = unpack_rows(bytes(data), "histogram", 0)
    assert list(doubles[values]) == [2.5, 0, 0, 0, 3]


def test_label_values_become_valid_utf8() -> None:
    """Invalid characters in label values are replaced."""
    assert as_text((200, None, "\udc80!", "é")) == ("200", "None", "?!", "é")


def test_missing_label_value_is_an_error() -> None:
    """A row must have as many label values as its family has labels."""
    with pytest.raises(ValueError, match="shorter"):
        pack_row(COUNTER, ("a",))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda row: row[:-8],
    "cut by a bucket": lambda row: row[: len(row) * 4 // 5],
    "negative length": lambda row: INTEGER.pack(-1) + row[4:],
    "large length": lambda row: INTEGER.pack(1 << 30) + row[4:],
    "not JSON": lambda row: row.replace(b"[", b"{", 1),
    "not UTF-8": lambda row: row.replace(b"job", b"\xffob", 1),
    "a lower bound": lambda row: row.replace(b'"1.0"', b'"0.1"'),
    "NaN bound": lambda row: row.replace(b'"1.0"', b'"NaN"'),
    "not a number": lambda row: row.replace(b'"1.0"', b'"a.b"'),
    "another label": lambda row: row.replace(b'"a","le":"0.5"', b'"b","le":"0.5"'),
    "another name": lambda row: row.replace(b"_bucket", b"_basket", 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_row_raises_after_the_rows_before_it(damage: str) -> None:
    """Rows before the damage are returned."""
    row = pack_row(HISTOGRAM, ("a",))
    rows: list[StoredRow] = []

    with pytest.raises(ValueError, match=r"\S"):
        rows.extend(unpack_rows(row + DAMAGES[damage](row), "histogram", 0))

    assert [row.labels for row in rows] == [("a",)]


def test_gauge_is_one_entry() -> None:
    """The metric and the sample of a gauge have the same name."""
    assert keys(pack_row(GAUGE, ("a",))) == [
        ("jobs_running", "jobs_running", {"name": "a"}, "Running jobs")
    ]


def test_differently_formatted_row_is_read() -> None:
    """Spaces and timestamps of a row may differ from those of `pack_row`."""
    ((family, labels, _, _),) = unpack_rows(hand_written(), "histogram", 0)

    assert (family, labels) == (HISTOGRAM._replace(buckets=(2.0,)), ("a",))


def test_rows_of_different_families_may_follow_each_other() -> None:
    """Each row is parsed by its own entries."""
    other = HISTOGRAM._replace(buckets=(7.0, 8.0, 9.0))
    labelled = HISTOGRAM._replace(labels=("name", "status"))
    shapes = [(HISTOGRAM, ("a",)), (other, ("a",)), (labelled, ("a", "b")), (HISTOGRAM, ("b",))]

    data = b"".join(pack_row(*shape) for shape in shapes) + hand_written()

    rows = [row[:2] for row in unpack_rows(data, "histogram", 0)]
    assert rows == [*shapes, (HISTOGRAM._replace(buckets=(2.0,)), ("a",))]


def hand_written() -> bytes:
    """Return a row with spaces in its keys and a timestamp."""
    samples = [("sum", {}), ("bucket", {"le": "2.0"}), ("bucket", {"le": "+Inf"})]
    entries = b""
    for sample, le in samples:
        key = msgspec.json.encode(
            ("job_seconds", f"job_seconds_{sample}", {"name": "a", **le}, "Time")
        )
        key = key.replace(b",", b", ").ljust(100)
        entries += INTEGER.pack(100) + key + b" " * 8 + b"\0" * 8 + b"\1" * 8
    return entries
