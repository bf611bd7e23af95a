"""Rows of all families, with the cache of request rows."""

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
    """Return the values of a counter by label values."""
    (rows,) = (rows for family, rows in tables.series() if family.name == name)
    return {labels: row[0] for labels, row in rows.items()}


@given(requests=st.lists(kinds, max_size=30), max_series=st.integers(1, 30))
def test_row_cache_is_bounded_and_has_no_overflow_rows(
    requests: list[Labels], max_series: int
) -> None:
    """Requests that overflow are looked up each time."""
    tables = Tables(max_series=max_series)

    for kind in requests:
        rows = tables.row_cache.get(kind) or tables.request_rows(kind)
        rows[0][0] += 1

    assert len(tables.row_cache) <= max_series * 8
    counted = counts(tables, "tokenpulse_http_requests_total")
    assert {kind[:4] for kind in tables.row_cache} <= counted.keys()
    assert sum(counted.values()) == len(requests)


def test_overflow_is_counted_for_each_full_family() -> None:
    """Each request is counted."""
    tables = Tables(max_series=1)

    for route in ("/a", "/b", "/b"):
        tables.request_rows(("GET", route, 200, "claude", "complete", False))

    assert counts(tables, "tokenpulse_series_overflow_total") == {
        ("tokenpulse_http_requests_total",): 2,
        ("tokenpulse_http_request_duration_seconds",): 2,
        ("tokenpulse_http_time_to_first_byte_seconds",): 2,
    }


usage_kinds = st.tuples(
    st.sampled_from(["claude", "gemini", "other"]),
    st.sampled_from(["m", "n"]),
    st.sampled_from(["reported", "partial", "missing"]),
    st.booleans(),
)


@given(responses=st.lists(usage_kinds, max_size=30), max_series=st.integers(1, 20))
def test_usage_row_cache_is_bounded_and_has_no_overflow_rows(
    responses: list[Labels], max_series: int
) -> None:
    """Responses that overflow are looked up each time."""
    tables = Tables(max_series=max_series)

    for kind in responses:
        requests, tokens = tables.usage_row_cache.get(kind) or tables.usage_rows(kind)
        requests[0] += 1
        for row in tokens:
            row[0] += 1

    assert len(tables.usage_row_cache) <= max_series * 2
    counted = counts(tables, "tokenpulse_llm_requests_total")
    assert {kind[:3] for kind in tables.usage_row_cache} <= counted.keys()
    assert sum(counted.values()) == len(responses)
    with_usage = [kind for kind in responses if kind[3]]
    assert sum(counts(tables, "tokenpulse_llm_tokens_total").values()) == 5 * len(with_usage)


def test_overflow_of_usage_is_counted_for_each_token_kind() -> None:
    """Each observation that has no series of its own is counted."""
    tables = Tables(max_series=5)
    tables.usage_rows(("claude", "m", "reported", True))

    for _ in range(2):
        tables.usage_rows(("gemini", "m", "reported", True))

    assert counts(tables, "tokenpulse_series_overflow_total") == {
        ("tokenpulse_llm_tokens_total",): 10
    }


def test_missing_usage_has_no_token_series() -> None:
    """Tokens get no series without observations."""
    tables = Tables(max_series=10)

    tables.usage_rows(("claude", "m", "missing", False))

    assert counts(tables, "tokenpulse_llm_tokens_total") == {}


def test_response_without_a_body_has_no_first_byte() -> None:
    """The time to the first byte gets no series without observations."""
    tables = Tables(max_series=10)

    *_, first_byte = tables.request_rows(("GET", "/a", 204, "claude", "complete", True))

    assert first_byte is None
    assert counts(tables, "tokenpulse_http_time_to_first_byte_seconds") == {}


def test_reset_after_fork_removes_all_rows() -> None:
    """A forked child removes the rows, which belong to the parent."""
    tables = Tables(max_series=10)
    kind = ("GET", "/a", 200, "claude", "complete", False)
    tables.request_rows(kind)[0][0] += 1
    tables.usage_rows(("claude", "m", "reported", True))
    tables.in_progress[0] += 1

    tables.reset_after_fork()

    assert counts(tables, "tokenpulse_http_requests_total") == {}
    assert tables.open_in_progress() is tables.in_progress
    assert counts(tables, "tokenpulse_http_requests_in_progress") == {(): 0}
    assert not tables.row_cache
    assert not tables.usage_row_cache


def test_cleared_tables_keep_the_requests_in_progress() -> None:
    """A request that ends after the clear leaves none in progress, and is counted."""
    tables = Tables(max_series=10)
    kind = ("GET", "/a", 200, "claude", "complete", False)
    tables.request_rows(kind)[0][0] += 1
    tables.in_progress[0] += 1

    tables.clear()
    assert counts(tables, "tokenpulse_http_requests_total") == {}
    tables.in_progress[0] -= 1
    tables.request_rows(kind)[0][0] += 1

    assert counts(tables, "tokenpulse_http_requests_total") == {kind[:4]: 1}
    assert counts(tables, "tokenpulse_http_requests_in_progress") == {(): 0}
