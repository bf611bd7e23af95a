"""Thresholds and silences, in every store."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.store import Conflict, ThresholdsVersion

from .conftest import Open
from .leadership import loaded
from .samples import silence

pytestmark = pytest.mark.anyio


async def test_thresholds_survive_a_restart(opened: Open) -> None:
    """The newest version is loaded, and all versions are listed."""
    first = ThresholdsVersion(1, {"error_rate": 0.1, "global_qps": None}, 100.0, "ada")
    second = ThresholdsVersion(2, {"error_rate": 0.2}, 200.0, "bob")

    async with opened() as store:
        versions = [
            await store.set_thresholds(first.values, expected=None, by="ada", at=100),
            await store.set_thresholds(second.values, expected=1, by="bob", at=200),
        ]

    async with opened() as store:
        assert versions == [first, second]
        assert (await loaded(store)).thresholds == second
        assert await store.history(10) == (second, first)
        assert await store.history(1) == (second,)


@pytest.mark.parametrize("expected", [None, 1, 3])
async def test_thresholds_made_from_another_version_are_rejected(
    opened: Open, expected: int | None
) -> None:
    """A change made from another version raises Conflict with the current version."""
    async with opened() as store:
        await store.set_thresholds({"error_rate": 0.1}, expected=None, by="ada", at=100)
        current = await store.set_thresholds({"error_rate": 0.2}, expected=1, by="ada", at=110)

        with pytest.raises(Conflict, match="the current version of the thresholds is 2") as caught:
            await store.set_thresholds({}, expected=expected, by="bob", at=120)

        assert caught.value.current == 2
        assert (await loaded(store)).thresholds == current


async def test_first_thresholds_made_from_a_version_are_rejected(opened: Open) -> None:
    """The first thresholds raise Conflict with None if a version was expected."""
    async with opened() as store:
        with pytest.raises(Conflict) as caught:
            await store.set_thresholds({}, expected=1, by="ada", at=100)

        assert caught.value.current is None


async def test_thresholds_that_are_not_json_are_rejected(opened: Open) -> None:
    """Values that are not JSON and times that are not finite create no version."""
    async with opened() as store:
        with pytest.raises(ValueError, match="values must be plain JSON"):
            await store.set_thresholds({"x": float("inf")}, expected=None, by="ada", at=100)
        with pytest.raises(ValueError, match="at must be a finite number"):
            await store.set_thresholds({}, expected=None, by="ada", at=float("nan"))

        assert await store.history(1) == ()


async def test_versions_beyond_the_bound_are_deleted(opened: Open) -> None:
    """The newest versions are stored, and the numbers continue."""
    async with opened(max_history=2) as store:
        for version in range(4):
            await store.set_thresholds({"v": version}, expected=version or None, by="", at=100)

        assert [version.version for version in await store.history(10)] == [4, 3]


async def test_stored_thresholds_do_not_share_objects_with_the_caller(opened: Open) -> None:
    """Changing values that were passed or returned does not change the stored ones."""
    values = {"list": [1]}
    async with opened() as store:
        version = await store.set_thresholds(values, expected=None, by="ada", at=100)
        values["list"].append(2)
        version.values["list"].append(3)
        (await store.history(1))[0].values["list"].append(4)

        assert [version.values for version in await store.history(1)] == [{"list": [1]}]


async def test_silences_survive_a_restart_until_they_end(opened: Open) -> None:
    """Silences are listed by start until their end."""
    soon, later = silence("s2", 50, 200), silence("s1", 60, 150.5)

    async with opened() as store:
        await store.add_silence(later)
        await store.add_silence(soon)

    async with opened() as store:
        assert await store.silences(100) == (soon, later)
        assert await store.silences(150.5) == (soon,)
        assert await store.silences(200) == ()


async def test_ended_silences_are_not_loaded(opened: Open) -> None:
    """An engine loads the silences that end after its start."""
    async with opened(wall=lambda: 180.0) as store:
        await store.add_silence(silence("ended", 100, 180))
        await store.add_silence(silence("lasts", 100, 181))

        assert [silence.id for silence in (await loaded(store)).silences] == ["lasts"]


async def test_silence_of_the_same_id_is_replaced(opened: Open) -> None:
    """Adding a silence again under its id changes it."""
    async with opened() as store:
        await store.add_silence(silence(ends_at=200))
        await store.add_silence(silence(ends_at=300))

        assert await store.silences(0) == (silence(ends_at=300),)


async def test_remove_silence_reports_if_it_was_stored(opened: Open) -> None:
    """Removing a silence returns True the first time, and False after that."""
    async with opened() as store:
        await store.add_silence(silence())

        assert await store.remove_silence("s1") is True
        assert await store.remove_silence("s1") is False
        assert await store.silences(0) == ()


async def test_prune_deletes_ended_silences(opened: Open) -> None:
    """Silences are pruned by their end."""
    async with opened() as store:
        await store.add_silence(silence("s1", 100, 200))
        await store.add_silence(silence("s2", 100, 201))
        await store.prune(201)

        assert [silence.id for silence in await store.silences(0)] == ["s2"]
