"""Tables: where each kind of request is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.metrics.rows import Labels
from tokenpulse_mw.metrics.tables import Tables

kinds = st.tuples(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/a", "/b", "/c"]),
    st.sampled_from([200, 404]),
    st.sampled_from(["claude", "other"]),
    st.sampled_from(["complete", "error"]),
    st.booleans(),
)


def counts(tables: Tables, name: str) -> dict[Labels, float]:
    """The values of a counter's rows."""
    (rows,) = (rows for family, rows in tables.series() if family.name == name)
    return {labels: row[0] for labels, row in rows.items()}


@given(asked=st.lists(kinds, max_size=30), most=st.integers(1, 30))
def test_what_is_at_hand_is_bounded_and_never_folded(asked: list[Labels], most: int) -> None:
    """A kind of request finds its rows at once, unless they are those of overflow."""
    tables = Tables(most=most)

    for kind in asked:
        rows = tables.row_cache.get(kind) or tables.rows_of(kind)
        rows[0][0] += 1

    assert len(tables.row_cache) <= most * 8
    counted = counts(tables, "tokenpulse_http_requests_total")
    assert {kind[:4] for kind in tables.row_cache} <= counted.keys()
    assert sum(counted.values()) == len(asked)


def test_what_is_folded_is_told_every_time() -> None:
    """In each family that has no room for it."""
    tables = Tables(most=1)

    for route in ("/a", "/b", "/b"):
        tables.rows_of(("GET", route, 200, "claude", "complete", False))

    assert counts(tables, "tokenpulse_series_overflow_total") == {
        ("tokenpulse_http_requests_total",): 2,
        ("tokenpulse_http_request_duration_seconds",): 2,
        ("tokenpulse_http_time_to_first_byte_seconds",): 2,
    }


def test_an_answer_without_a_body_has_no_first_byte() -> None:
    """Its route gets no series of a histogram that nothing was observed in."""
    tables = Tables(most=10)

    *_, first_byte = tables.rows_of(("GET", "/a", 204, "claude", "complete", True))

    assert first_byte is None
    assert counts(tables, "tokenpulse_http_time_to_first_byte_seconds") == {}


def test_tables_can_begin_anew() -> None:
    """As they must in a process that was forked: what was counted is the other's."""
    tables = Tables(most=10)
    kind = ("GET", "/a", 200, "claude", "complete", False)
    tables.rows_of(kind)[0][0] += 1
    tables.in_progress[0] += 1

    tables.reset_after_fork()

    assert counts(tables, "tokenpulse_http_requests_total") == {}
    assert tables.open_in_progress() is tables.in_progress
    assert counts(tables, "tokenpulse_http_requests_in_progress") == {(): 0}
    assert kind not in tables.row_cache
