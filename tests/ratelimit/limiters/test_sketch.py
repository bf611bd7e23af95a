"""The sketches: they may overestimate the usage of a window, and never underestimate it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.limiters.sketch import EvictedWindows, WindowSketch

every_sketch = pytest.mark.parametrize(
    "create",
    [lambda: WindowSketch(width=1024), lambda: EvictedWindows(50)],
    ids=["count-min", "evicted-windows"],
)
Create = Callable[[], WindowSketch]


def crowded() -> WindowSketch:
    """Return a sketch in which all keys share the same cells."""
    return WindowSketch(width=1)


def overflowing() -> EvictedWindows:
    """Return a sketch whose cells for single keys are all in use for 90 seconds."""
    sketch = EvictedWindows(1)
    for number in range(1000):
        sketch.save((number, "one of many"), number + 1, 90.0, 0.0)
    return sketch


windows = st.dictionaries(
    st.integers(), st.tuples(st.integers(1, 1000), st.floats(0, 100)), max_size=50
)


@pytest.mark.parametrize(
    "create",
    [lambda: WindowSketch(width=8), lambda: EvictedWindows(1)],
    ids=["count-min", "evicted-windows"],
)
@given(windows=windows, now=st.floats(0, 100))
def test_usage_and_end_are_never_underestimated(
    create: Create, windows: dict[int, tuple[int, float]], now: float
) -> None:
    """This holds for any number of keys that share cells."""
    sketch = create()
    for key, (used, ends) in windows.items():
        sketch.save(key, used, ends, 0.0)

    for key, (used, ends) in windows.items():
        loaded, until = sketch.load(key, now)
        if ends > now:
            assert loaded >= used
            assert until >= ends


@given(
    saves=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(1, 20), st.integers(0, 2)),
        max_size=300,
    )
)
def test_usage_is_never_underestimated_while_windows_end(
    saves: list[tuple[int, int, int, int]],
) -> None:
    """Usage and ends of a key only grow; its cells pass to other keys when its window has ended."""
    sketch, now = EvictedWindows(1), 0.0
    saved: dict[int, tuple[int, float]] = {}
    for key, more, seconds, pause in saves:
        now += pause
        used, ends = saved.get(key, (0, 0.0))
        saved[key] = (used if ends > now else 0) + more, max(ends, now + seconds)
        sketch.save(key, *saved[key], now)

        for other, (used, ends) in saved.items():
            if used and ends > now:
                loaded, until = sketch.load(other, now)
                assert loaded >= used
                assert until >= ends


@every_sketch
def test_window_with_its_own_cells_is_loaded_exactly(create: Create) -> None:
    """Without other keys in its cells, a key has its exact usage until its window ends."""
    sketch = create()

    sketch.save("a", 7, 60.0, 0.0)

    assert sketch.load("a", 59.0) == (7, 60.0)
    assert sketch.load("a", 60.0) == (0, 60.0)
    assert sketch.load("b", 0.0) == (0, 0.0)


@every_sketch
def test_second_save_of_a_window_replaces_the_first(create: Create) -> None:
    """A key that is evicted again saves its complete usage, which is not added up."""
    sketch = create()

    sketch.save("a", 7, 60.0, 0.0)
    sketch.save("a", 9, 60.0, 1.0)

    assert sketch.load("a", 2.0) == (9, 60.0)


@every_sketch
def test_expired_window_is_overwritten(create: Create) -> None:
    """Usage of expired windows does not accumulate."""
    sketch = create()

    sketch.save("a", 7, 60.0, 0.0)
    sketch.save("a", 1, 120.0, 60.0)

    assert sketch.load("a", 61.0) == (1, 120.0)


def test_expired_window_does_not_count_for_another_key() -> None:
    """The mark of a cell is that of the key with the unexpired window."""
    sketch = crowded()
    sketch.save("old", 7, 60.0, 0.0)

    sketch.save("new", 1, 120.0, 60.0)

    assert sketch.load("new", 61.0) == (1, 120.0)
    assert sketch.load("old", 61.0) == (0, 61.0)


def test_unsaved_key_is_recognized_in_cells_of_a_single_key() -> None:
    """The mark in the cells differs from the mark of the unsaved key."""
    sketch = crowded()
    sketch.save("a", 7, 60.0, 0.0)

    recognized = [sketch.load(number, 1.0) == (0, 1.0) for number in range(100)]

    assert recognized.count(True) > 95  # one in 65,536 marks is equal by chance


def test_unsaved_key_in_cells_of_several_keys_gets_their_usage() -> None:
    """The key gets the largest usage and the latest end of the cells."""
    sketch = crowded()
    for number in range(1, 8):
        sketch.save(number, number, 100.0 - number, 0.0)

    assert sketch.load("unsaved", 1.0) == (7, 99.0)
    assert sketch.load(1, 1.0) == (7, 99.0)


def test_colliding_keys_are_unpredictable() -> None:
    """Every sketch has a random salt, so that clients cannot choose colliding keys."""

    def colliding() -> set[str]:
        sketch = WindowSketch(width=64)
        for number in range(100):
            sketch.save(number, 7, 60.0, 0.0)
        return {key for key in map(str, range(1000)) if sketch.load(key, 1.0)[0]}

    assert colliding() != colliding()


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 9), st.integers(1, 9)), max_size=80
    )
)
def test_loaded_usage_never_exceeds_the_largest_saved_usage(
    requests: list[tuple[int, int, int]],
) -> None:
    """The usage of several keys in a cell is not added up."""
    sketch = crowded()
    for key, used, ends in requests:
        sketch.save(key, used, float(ends), 0.0)

    for key in range(31):
        assert sketch.load(key, 0.0)[0] <= max((used for _, used, _ in requests), default=0)


def test_save_of_usage_0_changes_nothing() -> None:
    """Neither the key nor the other keys in its cells are affected."""
    sketch = crowded()
    sketch.save("a", 3, 60.0, 0.0)

    for number in range(10):
        sketch.save(number, 0, 90.0, 1.0)

    assert sketch.load("a", 2.0) == (3, 60.0)
    assert [sketch.load(number, 2.0)[0] for number in range(10)].count(0) > 8


@pytest.mark.parametrize("used", [2**64 - 1, 2**64, 10**30])
@every_sketch
def test_usage_above_the_maximum_of_a_cell_is_clipped(create: Create, used: int) -> None:
    """A usage too large for a cell is stored as the largest possible one."""
    sketch = create()

    sketch.save("a", used, 60.0, 0.0)
    sketch.save("b", 2 * used, 60.0, 0.0)

    assert sketch.load("a", 1.0) == sketch.load("b", 1.0)
    assert sketch.load("a", 1.0)[0] >= 2**48 - 1


@every_sketch
def test_cleared_key_is_unused(create: Create) -> None:
    """After `clear`, the key has no usage."""
    sketch = create()

    sketch.save("a", 7, 60.0, 0.0)
    sketch.clear("a")

    assert sketch.load("a", 1.0) == (0, 1.0)


def test_clear_affects_no_other_key_if_one_cell_is_not_shared() -> None:
    """A key nearly always has a cell that no other key has written."""
    damaged = 0
    for _ in range(200):
        sketch = WindowSketch(width=512)
        for key in range(12):
            sketch.save((key, "one of many"), 7, 60.0, 0.0)
        sketch.clear((0, "one of many"))
        assert sketch.load((0, "one of many"), 1.0) == (0, 1.0)
        others = [sketch.load((key, "one of many"), 1.0) for key in range(1, 12)]
        damaged += others != [(7, 60.0)] * 11

    assert damaged <= 8  # one key in 2,000 shares all of its cells


def test_clear_works_for_a_key_that_shares_all_cells() -> None:
    """A reset must work, so other keys may lose usage."""
    sketch = crowded()
    for number in range(8):
        sketch.save(number, 7, 60.0, 0.0)

    sketch.clear(0)

    assert sketch.load(0, 1.0) == (0, 1.0)


def test_keys_with_equal_hashes_keep_the_larger_usage() -> None:
    """A client can choose such integers, and must not reduce the usage of another key."""
    twin = sys.hash_info.modulus
    assert hash(twin) == hash(0)
    sketch = EvictedWindows(50)

    sketch.save(0, 7, 60.0, 0.0)
    sketch.save(twin, 1, 30.0, 1.0)

    assert sketch.load(0, 2.0) == (7, 60.0)


def test_windows_of_many_clients_are_loaded_exactly() -> None:
    """With ten keys per entry of the table, nearly none is mistaken for others."""
    sketch = EvictedWindows(1000)
    windows = {(number, "one of many"): (number + 1, 60.0 + number) for number in range(10_000)}
    for key, (used, ends) in windows.items():
        sketch.save(key, used, ends, 0.0)

    loaded = {key: sketch.load(key, 1.0) for key in windows}

    # 360 find no free cell, and one in 3,000 of them shares both of its other cells.
    assert sum(loaded[key] != windows[key] for key in windows) <= 4
    assert sum(sketch.load(("new", number), 1.0)[0] > 0 for number in range(1000)) <= 1


def test_key_whose_first_cell_is_in_use_has_a_second_cell() -> None:
    """With 16 keys per entry, which fill half of the cells, about 10 of 32,000 are not exact.

    With a single cell for each key, it would be about four times as many. Places are random, so
    three sketches are added up.
    """
    inexact = 0
    for _ in range(3):
        sketch = EvictedWindows(2000)
        for number in range(32_000):
            sketch.save((number, "one of many"), number + 1, 60.0, 0.0)
        loaded = [sketch.load((number, "one of many"), 1.0)[0] for number in range(32_000)]
        inexact += sum(used != number + 1 for number, used in enumerate(loaded))

    assert inexact <= 70


def test_key_without_a_free_cell_is_stored_with_those_of_others() -> None:
    """The usage is an upper bound; cells for single keys keep their exact windows."""
    sketch = overflowing()

    sketch.save("late", 9, 80.0, 1.0)
    used, ends = sketch.load("late", 2.0)

    assert used >= 9
    assert ends >= 80.0
    others = [sketch.load((number, "one of many"), 2.0) for number in range(1000)]
    assert sum(one == (number + 1, 90.0) for number, one in enumerate(others)) >= 32


def test_full_sketch_forgets_all_windows_when_they_end() -> None:
    """After that, a new key is not mistaken for others."""
    sketch = overflowing()
    assert sketch.load("new", 89.9)[0] > 0

    assert sketch.load("new", 90.0) == (0, 90.0)
    sketch.save("new", 1, 150.0, 90.0)
    assert sketch.load("new", 91.0) == (1, 150.0)


def test_clear_works_for_keys_with_and_without_a_cell() -> None:
    """A reset must work, so other keys may lose usage."""
    sketch = overflowing()

    for number in range(1000):
        sketch.clear((number, "one of many"))
        assert sketch.load((number, "one of many"), 1.0) == (0, 1.0)


@pytest.mark.parametrize("number", range(20))
def test_clear_of_a_key_with_a_cell_affects_no_other_key(number: int) -> None:
    """Without an overflow, a cell has one key."""
    sketch = EvictedWindows(1000)
    for key in range(20):
        sketch.save((key, "one of many"), 7, 60.0, 0.0)

    sketch.clear((number, "one of many"))

    loaded = [sketch.load((key, "one of many"), 1.0) for key in range(20)]
    assert loaded == [(0, 1.0) if key == number else (7, 60.0) for key in range(20)]


def test_cells_of_keys_are_unpredictable() -> None:
    """Each sketch has a salt, so that clients cannot choose keys that fill the cells of another."""

    def without_a_cell() -> set[int]:
        sketch = EvictedWindows(10)
        for number in range(640):
            sketch.save(number, number + 1, 60.0, 0.0)
        return {number for number in range(640) if sketch.load(number, 1.0)[0] != number + 1}

    assert without_a_cell() != without_a_cell()
