"""Windows of rate limits, in every store."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.store import LimitWindow

from .conftest import Open
from .samples import ODD

NOW = 1_000_000.0


def window(key: bytes = b"s4:acme", used: int = 7, ends: float = NOW + 60) -> LimitWindow:
    """Return the usage of a key."""
    return LimitWindow(key, used, ends)


@pytest.mark.anyio
async def test_windows_outlive_the_process(opened: Open) -> None:
    """Each limit has its own windows, with any bytes as keys and counts of 63 bits."""
    rows = [window(b"\0\xff" * 512, 2**63 - 1), window()]
    async with opened(wall=lambda: NOW) as store:
        await store.save_windows("budget", "p1", rows)
        await store.save_windows(ODD, ODD, [window(used=1)])
    async with opened(wall=lambda: NOW) as store:
        budget, odd = await store.load_windows("budget"), await store.load_windows(ODD)
        unknown = await store.load_windows("unknown")

    assert (sorted(budget.windows), budget.processes) == (sorted(rows), ("p1",))
    assert odd == ((window(used=1),), (ODD,))
    assert unknown == ((), ())


@pytest.mark.anyio
async def test_repeated_save_counts_once(opened: Open) -> None:
    """A save replaces the last one of the process: keys that were reset are gone."""
    async with opened(wall=lambda: NOW) as store:
        await store.save_windows("budget", "p1", [window(b"a"), window(b"b")])
        for _ in range(2):
            await store.save_windows("budget", "p1", [window(b"a", 5)])

        assert (await store.load_windows("budget")).windows == (window(b"a", 5),)


@pytest.mark.anyio
async def test_most_used_window_of_a_key_is_loaded(opened: Open) -> None:
    """Processes that count alone are not added up."""
    async with opened(wall=lambda: NOW) as store:
        await store.save_windows("budget", "p1", [window(b"a", 5), window(b"b", 1)])
        await store.save_windows("budget", "p2", [window(b"a", 4), window(b"b", 2)])
        await store.save_windows("budget", "p3", [window(b"a", 5, NOW + 90)])
        windows, processes = await store.load_windows("budget")

    assert sorted(windows) == [window(b"a", 5, NOW + 90), window(b"b", 2)]
    assert processes == ("p1", "p2", "p3")


@pytest.mark.anyio
async def test_loaded_windows_are_replaced(opened: Open) -> None:
    """A process deletes those that it has loaded; one that still runs saves its own again."""
    async with opened(wall=lambda: NOW) as store:
        await store.save_windows("budget", "p1", [window(used=5)])
        await store.save_windows("budget", "p2", [window(used=1)])
        await store.save_windows("budget", "p3", [window(used=6)], replaces=("p1", "p2"))
        assert await store.load_windows("budget") == ((window(used=6),), ("p3",))

        await store.save_windows("budget", "p1", [window(used=8)])
        assert await store.load_windows("budget") == ((window(used=8),), ("p1", "p3"))


@pytest.mark.anyio
async def test_ended_windows_are_not_loaded_and_are_deleted(opened: Open) -> None:
    """`prune` deletes them; the other windows stay."""
    now = NOW
    async with opened(wall=lambda: now) as store:
        await store.save_windows("budget", "p1", [window(b"a", ends=NOW + 10), window(b"b")])
        await store.save_windows("hourly", "p1", [window(ends=NOW + 10)])
        now += 10
        assert (await store.load_windows("budget")).windows == (window(b"b"),)
        assert await store.load_windows("hourly") == ((), ())

        await store.prune(0)
        now -= 10  # what was deleted does not return
        assert window(b"b") in (await store.load_windows("budget")).windows
        assert await store.load_windows("hourly") == ((), ())
