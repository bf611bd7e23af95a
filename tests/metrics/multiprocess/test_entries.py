"""Entries: rows as prometheus_client's files hold them."""

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
    kind_of,
    packed,
    place,
    unpacked,
)

from .samples import COUNTER, GAUGE, HISTOGRAM

WORDS = st.text('aé\U0001f600"\\\n\0 ,:{}[]', max_size=10)


KINDS: list[Kind] = ["counter", "gauge", "least", "histogram"]


@st.composite
def families(draw: st.DrawFn) -> tuple[Family, tuple[str, ...]]:
    """A family of any shape, and label values for it."""
    kind = draw(st.sampled_from(KINDS))
    labels = draw(st.sampled_from([(), ("a",), ("status", "route"), ("c", "b", "a")]))
    bounds = st.lists(st.floats(-1e9, 1e9), unique=True, max_size=5)
    buckets = tuple(sorted(draw(bounds))) if kind == "histogram" else ()
    family = Family("some_total", "counter", draw(WORDS), labels, buckets)
    if kind == "least":
        family = family._replace(kind="gauge", merge="min")
    else:
        family = family._replace(kind=kind)
    return family, tuple(draw(WORDS) for _ in labels)


def keys(entries: bytes) -> list[tuple[str, str, dict[str, str], str]]:
    """The keys in `entries`, read as prometheus_client reads them."""
    found, start = [], 0
    while start < len(entries):
        (length,) = INTEGER.unpack_from(entries, start)
        found.append(tuple(json.loads(entries[start + 4 : start + 4 + length])))
        start += 4 + length + 8 - (4 + length) % 8 + 16
    return found


@given(st.lists(families(), max_size=4))
def test_what_is_packed_is_unpacked(rows: list[tuple[Family, tuple[str, ...]]]) -> None:
    """Families, labels and places come back, whatever text is in them."""
    for kind in KINDS:
        mine = [row for row in rows if kind_of(row[0]) == kind]
        data = b"".join(packed(*row) for row in mine)
        found = list(unpacked(data, kind, 0))
        assert [each[:2] for each in found] == mine
        assert [each.end for each in found][-1:] == [len(data)][: len(mine)]


def test_a_histogram_is_a_sum_and_buckets() -> None:
    """As prometheus_client writes them, with the same keys and bounds."""
    labels = {"name": "a"}

    assert keys(packed(HISTOGRAM, ("a",))) == [
        ("job_seconds", "job_seconds_sum", labels, "Time"),
        *[
            ("job_seconds", "job_seconds_bucket", {**labels, "le": le}, "Time")
            for le in ("0.5", "1.0", "1e+06", "+Inf")
        ],
    ]


def test_a_counters_metric_has_no_total() -> None:
    """The sample has it."""
    (key,) = keys(packed(COUNTER, ("a", "ok")))

    assert key == ("jobs", "jobs_total", {"name": "a", "status": "ok"}, "Jobs")


def test_the_values_of_a_row_are_one_slice() -> None:
    """They lie at equal distances, the sum first."""
    data = bytearray(packed(HISTOGRAM, ("a name",)))
    doubles = memoryview(data).cast("d")
    row = doubles[place(0, len(data) // 5, 5)]

    row[0], row[4] = 2.5, 3.0

    assert list(row) == [2.5, 0, 0, 0, 3]
    ((_, _, where, _),) = unpacked(bytes(data), "histogram", 0)
    assert list(doubles[where]) == [2.5, 0, 0, 0, 3]


def test_any_value_is_a_label() -> None:
    """It is written as text; what UTF-8 cannot hold, is replaced."""
    assert as_text((200, None, "\udc80!", "é")) == ("200", "None", "?!", "é")


def test_labels_are_as_many_as_the_family_has() -> None:
    """One too few is an error of the caller's."""
    with pytest.raises(ValueError, match="shorter"):
        packed(COUNTER, ("a",))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda row: row[:-8],
    "cut by a bucket": lambda row: row[: len(row) * 4 // 5],
    "negative length": lambda row: INTEGER.pack(-1) + row[4:],
    "great length": lambda row: INTEGER.pack(1 << 30) + row[4:],
    "no JSON": lambda row: row.replace(b"[", b"{", 1),
    "not UTF-8": lambda row: row.replace(b"job", b"\xffob", 1),
    "a lower bound": lambda row: row.replace(b'"1.0"', b'"0.1"'),
    "no bound": lambda row: row.replace(b'"1.0"', b'"NaN"'),
    "no number": lambda row: row.replace(b'"1.0"', b'"a.b"'),
    "another label": lambda row: row.replace(b'"a","le":"0.5"', b'"b","le":"0.5"'),
    "another name": lambda row: row.replace(b"_bucket", b"_basket", 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_row_is_told(damage: str) -> None:
    """Rows before it are found, and then it is an error."""
    row = packed(HISTOGRAM, ("a",))
    found: list[StoredRow] = []

    with pytest.raises(ValueError, match=r"\S"):
        found.extend(unpacked(row + DAMAGES[damage](row), "histogram", 0))

    assert [each.labels for each in found] == [("a",)]


def test_a_gauge_is_a_row_of_one() -> None:
    """With the same name in both places."""
    assert keys(packed(GAUGE, ("a",))) == [
        ("jobs_running", "jobs_running", {"name": "a"}, "Jobs at work")
    ]


def test_a_row_that_another_hand_wrote_is_read_as_well() -> None:
    """It need not be byte for byte as we would write it."""
    ((family, labels, _, _),) = unpacked(by_hand(), "histogram", 0)

    assert (family, labels) == (HISTOGRAM._replace(buckets=(2.0,)), ("a",))


def test_rows_of_different_shape_follow_each_other() -> None:
    """Each is read by its own entries, not by those of the one before."""
    other = HISTOGRAM._replace(buckets=(7.0, 8.0, 9.0))
    labelled = HISTOGRAM._replace(labels=("name", "status"))
    shapes = [(HISTOGRAM, ("a",)), (other, ("a",)), (labelled, ("a", "b")), (HISTOGRAM, ("b",))]

    data = b"".join(packed(*shape) for shape in shapes) + by_hand()

    found = [each[:2] for each in unpacked(data, "histogram", 0)]
    assert found == [*shapes, (HISTOGRAM._replace(buckets=(2.0,)), ("a",))]


def by_hand() -> bytes:
    """A row with spaces in its keys and a timestamp."""
    samples = [("sum", {}), ("bucket", {"le": "2.0"}), ("bucket", {"le": "+Inf"})]
    entries = b""
    for sample, le in samples:
        key = msgspec.json.encode(
            ("job_seconds", f"job_seconds_{sample}", {"name": "a", **le}, "Time")
        )
        key = key.replace(b",", b", ").ljust(100)
        entries += INTEGER.pack(100) + key + b" " * 8 + b"\0" * 8 + b"\1" * 8
    return entries
