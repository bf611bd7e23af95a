"""Thresholds and silences, in every store."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.store import Conflict, ThresholdsVersion

from .conftest import Open
from .samples import silence

pytestmark = pytest.mark.anyio


async def test_thresholds_survive_a_restart(opened: Open) -> None:
    """The next engine compares with what was last set, and every version can be looked up."""
    first = ThresholdsVersion(1, {"error_rate": 0.1, "global_qps": None}, 100.0, "ada")
    second = ThresholdsVersion(2, {"error_rate": 0.2}, 200.0, "bob")

    async with opened() as store:
        made = [
            await store.set_thresholds(first.values, expected=None, by="ada", at=100),
            await store.set_thresholds(second.values, expected=1, by="bob", at=200),
        ]

    async with opened() as store:
        assert made == [first, second]
        assert (await store.load()).thresholds == second
        assert await store.history(10) == (second, first)
        assert await store.history(1) == (second,)


@pytest.mark.parametrize("expected", [None, 1, 3])
async def test_nobody_overwrites_what_they_have_not_seen(
    opened: Open, expected: int | None
) -> None:
    """A change made from another version than the current one is refused, and tells it."""
    async with opened() as store:
        await store.set_thresholds({"error_rate": 0.1}, expected=None, by="ada", at=100)
        kept = await store.set_thresholds({"error_rate": 0.2}, expected=1, by="ada", at=110)

        with pytest.raises(Conflict, match="the current version of the thresholds is 2") as error:
            await store.set_thresholds({}, expected=expected, by="bob", at=120)

        assert error.value.current == 2
        assert (await store.load()).thresholds == kept


async def test_the_first_thresholds_are_made_from_none(opened: Open) -> None:
    """Whoever expects a version where there is none is told that there is none."""
    async with opened() as store:
        with pytest.raises(Conflict) as error:
            await store.set_thresholds({}, expected=1, by="ada", at=100)

        assert error.value.current is None


async def test_only_json_makes_thresholds(opened: Open) -> None:
    """What could not be read again is refused, and no version is made."""
    async with opened() as store:
        with pytest.raises(ValueError, match="values must be plain JSON"):
            await store.set_thresholds({"x": float("inf")}, expected=None, by="ada", at=100)
        with pytest.raises(ValueError, match="at must be a finite number"):
            await store.set_thresholds({}, expected=None, by="ada", at=float("nan"))

        assert await store.history(1) == ()


async def test_versions_are_bounded(opened: Open) -> None:
    """The newest are kept, and counting goes on."""
    async with opened(max_history=2) as store:
        for version in range(4):
            await store.set_thresholds({"v": version}, expected=version or None, by="", at=100)

        assert [each.version for each in await store.history(10)] == [4, 3]


async def test_thresholds_are_no_ones_to_change(opened: Open) -> None:
    """Changing a dict that was set, or that was given out, changes nothing that is kept."""
    values = {"list": [1]}
    async with opened() as store:
        made = await store.set_thresholds(values, expected=None, by="ada", at=100)
        values["list"].append(2)
        made.values["list"].append(3)
        (await store.history(1))[0].values["list"].append(4)

        assert [each.values for each in await store.history(1)] == [{"list": [1]}]


async def test_silences_survive_a_restart_until_they_end(opened: Open) -> None:
    """The next engine is silent where it was told to be; what has ended is not its business."""
    soon, later = silence("s2", 50, 200), silence("s1", 60, 150.5)

    async with opened() as store:
        await store.add_silence(later)
        await store.add_silence(soon)

    async with opened() as store:
        assert await store.silences(100) == (soon, later)
        assert await store.silences(150.5) == (soon,)
        assert await store.silences(200) == ()


async def test_an_engine_starts_with_the_silences_of_its_time(opened: Open) -> None:
    """What ended before it starts is left out."""
    async with opened(wall=lambda: 180.0) as store:
        await store.add_silence(silence("ended", 100, 180))
        await store.add_silence(silence("lasts", 100, 181))

        assert [each.id for each in (await store.load()).silences] == ["lasts"]


async def test_a_silence_can_be_changed(opened: Open) -> None:
    """The same id given again is the same silence, such as a longer one."""
    async with opened() as store:
        await store.add_silence(silence(ends_at=200))
        await store.add_silence(silence(ends_at=300))

        assert await store.silences(0) == (silence(ends_at=300),)


async def test_a_silence_can_be_removed(opened: Open) -> None:
    """Whoever removes it is told whether there was one."""
    async with opened() as store:
        await store.add_silence(silence())

        assert await store.remove_silence("s1") is True
        assert await store.remove_silence("s1") is False
        assert await store.silences(0) == ()


async def test_ended_silences_can_be_pruned(opened: Open) -> None:
    """They go by when they ended."""
    async with opened() as store:
        await store.add_silence(silence("s1", 100, 200))
        await store.add_silence(silence("s2", 100, 201))
        await store.prune(201)

        assert [each.id for each in await store.silences(0)] == ["s2"]
