"""Samples of processes for the live page, in every store."""

from __future__ import annotations

import math

import pytest

from tokenpulse_mw.alerts.store.protocol import SampleRecord

from .conftest import Open
from .samples import ODD

NOW = 1_000_000.0
pytestmark = pytest.mark.anyio


async def test_samples_of_all_processes_are_read_oldest_first(opened: Open, kind: str) -> None:
    """A page has the oldest after a time; the bytes are those that were stored."""
    now = NOW
    async with opened(wall=lambda: now) as store:
        await store.put_sample("p1", 1, b"\0\xff")
        now += 15
        await store.put_sample(ODD, 1, b"")
        now += 15
        await store.put_sample("p1", 2, b"2")
        pages = [await store.samples(after, 2) for after in (0.0, NOW, NOW + 30)]

    if kind.startswith("memory"):
        assert pages == [(NOW + 30, ())] * 3
        return
    first, second, third = (
        SampleRecord("p1", 1, NOW, b"\0\xff"),
        SampleRecord(ODD, 1, NOW + 15, b""),
        SampleRecord("p1", 2, NOW + 30, b"2"),
    )
    assert [page.samples for page in pages] == [(first, second), (second, third), ()]
    assert {page.now for page in pages} == {NOW + 30}


async def test_sample_of_the_same_number_is_replaced(opened: Open, kind: str) -> None:
    """A call whose outcome is unknown can be repeated."""
    now = NOW
    async with opened(wall=lambda: now) as store:
        await store.put_sample("p1", 1, b"old")
        now += 1
        await store.put_sample("p1", 1, b"new")
        samples = (await store.samples(0.0, 10)).samples

    if not kind.startswith("memory"):
        assert samples == (SampleRecord("p1", 1, NOW + 1, b"new"),)


async def test_old_samples_are_deleted(opened: Open, kind: str) -> None:
    """Those of a process with its next one, those of ended processes by `prune`."""
    now = NOW
    async with opened(wall=lambda: now) as store:
        await store.put_sample("p1", 1, b"1")
        await store.put_sample("p2", 1, b"1")
        now += 3601
        await store.put_sample("p1", 2, b"2")
        visible = (await store.samples(0.0, 10)).samples
        now -= 3601  # what was deleted does not return
        left = (await store.samples(0.0, 10)).samples
        now += 3601
        await store.prune(0)
        now -= 3601
        pruned = (await store.samples(0.0, 10)).samples

    if not kind.startswith("memory"):
        assert [(row.process, row.number) for row in visible] == [("p1", 2)]
        assert [(row.process, row.number) for row in left] == [("p2", 1), ("p1", 2)]
        assert [(row.process, row.number) for row in pruned] == [("p1", 2)]


async def test_samples_are_requested_until_the_latest_time(opened: Open, kind: str) -> None:
    """An earlier end has no effect, and the request is no sample."""
    now = NOW
    async with opened(wall=lambda: now) as store:
        before = await store.samples_watched()
        await store.watch_samples(300)
        await store.watch_samples(60)
        now += 100
        left = await store.samples_watched()
        now += 300
        ended = await store.samples_watched()
        await store.watch_samples(300)
        again = await store.samples_watched()
        samples = (await store.samples(0.0, 10)).samples

    assert (before, samples) == (0, ())
    if not kind.startswith("memory"):
        assert (left, ended, again) == (200, -100, 300)


@pytest.mark.parametrize("seconds", [math.inf, math.nan])
async def test_time_without_an_end_is_rejected(opened: Open, kind: str, seconds: float) -> None:
    """It could never be undone."""
    async with opened(wall=lambda: NOW) as store:
        if kind.startswith("memory"):
            await store.watch_samples(seconds)
        else:
            with pytest.raises(ValueError, match="seconds must be"):
                await store.watch_samples(seconds)
        assert await store.samples_watched() == 0
