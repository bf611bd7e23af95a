"""Usage of models by hour, in every store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store.usage import (
    MemoryUsage,
    UsageQuery,
    UsageRecord,
    UsageRevision,
    add_usage,
)

from .conftest import Open
from .leadership import batch, beat
from .samples import ODD

ALL = UsageQuery(0, 10**6, ("tenant", "model", "provider"), step=1)


def record(hour: int = 100, tenant: str = "acme", **fields: object) -> UsageRecord:
    """Return the usage of one request, changed by `fields`."""
    usage = UsageRecord(
        hour, tenant, "gpt-5", "openai", requests=1, input=10, output=5, cost_nanos=7
    )
    return replace(usage, **fields)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_each_batch_counts_once(opened: Open) -> None:
    """A heartbeat that is repeated, as after an answer that was lost, adds nothing."""
    first = replace(batch(1), usage=(record(), record(tenant=ODD, unpriced=1)))
    second = replace(batch(2), usage=(record(input=1),))
    async with opened() as store:
        await beat(store, "p1", first)
        await beat(store, "p1", first, second)
        await beat(store, "p1", first, second)
        await beat(store, "p2", replace(batch(1, "p2"), usage=(record(),)))
        usage = await store.usage(ALL)

    assert usage == (
        UsageRecord(100, "acme", "gpt-5", "openai", 3, 21, 15, cost_nanos=21),
        UsageRecord(100, ODD, "gpt-5", "openai", 1, 10, 5, cost_nanos=7, unpriced=1),
    )


@pytest.mark.anyio
async def test_confirmed_row_that_is_no_longer_stored_stays_deleted(opened: Open) -> None:
    """Its hour may have been deleted while a sink stored it."""
    async with opened() as store:
        await beat(store, "p1", replace(batch(1), usage=(record(),)))
        await store.confirm_export([UsageRevision(record(tenant="gone"), 1)])

        assert await store.usage(ALL) == (record(),)


@pytest.mark.anyio
async def test_usage_is_not_returned_with_batches(opened: Open) -> None:
    """A leader reads the traffic of a batch; its usage has been added already."""
    async with opened() as store:
        await beat(store, "p1", replace(batch(1), usage=(record(),)))

        assert await store.batches({}) == (batch(1),)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (UsageQuery(0, 200), [(0, "", "", "", 4)]),
        (UsageQuery(0, 200, ("tenant",)), [(0, "acme", "", "", 3), (0, "zeta", "", "", 1)]),
        (
            UsageQuery(0, 200, ("provider", "model")),
            [(0, "", "claude-5", "claude", 1), (0, "", "gpt-5", "openai", 3)],
        ),
        (UsageQuery(0, 200, step=24), [(72, "", "", "", 1), (96, "", "", "", 3)]),
        (
            UsageQuery(0, 200, step=1),
            [(95, "", "", "", 1), (96, "", "", "", 2), (97, "", "", "", 1)],
        ),
        (UsageQuery(96, 97), [(0, "", "", "", 2)]),
        (UsageQuery(0, 200, ("model",), tenant="zeta"), [(0, "", "claude-5", "", 1)]),
        (UsageQuery(0, 200, ("tenant",), limit=1), [(0, "acme", "", "", 3)]),
        (UsageQuery(500, 600), []),
        (UsageQuery(500, 600, ("tenant",)), []),
    ],
)
async def test_query_selects_and_sums(
    opened: Open, query: UsageQuery, expected: Sequence[tuple[object, ...]]
) -> None:
    """Rows are by time and dimensions; the other dimensions are summed up."""
    records = (
        record(95),
        record(96),
        record(96, "zeta", model="claude-5", provider="claude"),
        record(97),
    )
    async with opened() as store:
        await beat(store, "p1", replace(batch(1), usage=records))
        usage = await store.usage(query)

    assert [
        (row.hour, row.tenant, row.model, row.provider, row.requests) for row in usage
    ] == expected


@pytest.mark.anyio
async def test_old_usage_is_deleted(opened: Open, kind: str) -> None:
    """`prune` keeps the usage of as many days as the store was created with."""
    if kind.startswith("memory"):
        pytest.skip("a store in memory keeps 48 hours")
    async with opened(usage_days=2, wall=lambda: 100 * 3600.0) as store:
        await beat(store, "p1", replace(batch(1), usage=(record(51), record(52), record(99))))
        await store.prune(0)
        usage = await store.usage(ALL)

    assert [row.hour for row in usage] == [52, 99]


def test_memory_keeps_the_newest_hours_and_rows() -> None:
    """Hours and rows in memory are bounded; the oldest hours are dropped."""
    usage = MemoryUsage(max_hours=3, max_rows=4)
    usage.add(record(hour) for hour in range(5))
    assert [row.hour for row in finish(usage.read(ALL))] == [2, 3, 4]

    usage.add(record(4, f"tenant {number}") for number in range(5))
    assert {row.hour for row in finish(usage.read(ALL))} == {4}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 10**18))))
def test_sums_keep_every_number(rows: list[tuple[int, str, int]]) -> None:
    """Adding records of the same hour and dimensions loses and doubles nothing."""
    records = [record(hour, tenant, cost_nanos=cost) for hour, tenant, cost in rows]

    totals = add_usage(records)

    assert len({(row.hour, row.tenant) for row in totals}) == len(totals)
    assert sum(row.requests for row in totals) == len(records)
    assert sum(row.cost_nanos for row in totals) == sum(cost for _, _, cost in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ("color",)}, "by must be one of"),
        ({"by": ("model", "model")}, "by must have each dimension once"),
        ({"last": 5}, "last must be after first, got 5 and 5"),
        ({"step": 0}, "step must be an integer of at least 1"),
        ({"limit": 0}, "limit must be an integer of at least 1"),
    ],
)
def test_invalid_query_is_rejected(options: dict[str, object], message: str) -> None:
    """The error names the argument, and what was expected."""
    with pytest.raises(ValueError, match=message):
        UsageQuery(**{"first": 5, "last": 6, **options})  # type: ignore[arg-type]
