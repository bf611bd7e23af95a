"""The sketch: it may remember too much of a window, never too little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.limiters.sketch import WindowSketch


def crowded() -> WindowSketch:
    """A sketch where all keys share the same four cells."""
    return WindowSketch(width=1)


windows = st.dictionaries(
    st.integers(), st.tuples(st.integers(1, 1000), st.floats(0, 100)), max_size=50
)


@given(windows=windows, now=st.floats(0, 100))
def test_no_window_is_remembered_as_less_than_it_was(
    windows: dict[int, tuple[int, float]], now: float
) -> None:
    """However many keys share its cells, what a key used and when its window ends are kept."""
    sketch = WindowSketch(width=8)
    for key, (used, ends) in windows.items():
        sketch.save(key, used, ends, 0.0)

    for key, (used, ends) in windows.items():
        recalled, until = sketch.load(key, now)
        if ends > now:
            assert recalled >= used
            assert until >= ends


def test_a_window_alone_is_remembered_exactly() -> None:
    """Without others in its cells, a key is recalled as it was, until its window is over."""
    sketch = WindowSketch(width=1024)

    sketch.save("a", 7, 60.0, 0.0)

    assert sketch.load("a", 59.0) == (7, 60.0)
    assert sketch.load("a", 60.0) == (0, 60.0)
    assert sketch.load("b", 0.0) == (0, 0.0)


def test_the_same_window_is_not_added_up() -> None:
    """A key that leaves the table again brings its whole count, which replaces the former."""
    sketch = WindowSketch(width=1024)

    sketch.save("a", 7, 60.0, 0.0)
    sketch.save("a", 9, 60.0, 1.0)

    assert sketch.load("a", 2.0) == (9, 60.0)


def test_a_window_that_is_over_leaves_no_trace() -> None:
    """Its cells are used anew, so old counts do not pile up."""
    sketch = WindowSketch(width=1024)

    sketch.save("a", 7, 60.0, 0.0)
    sketch.save("a", 1, 120.0, 60.0)

    assert sketch.load("a", 61.0) == (1, 120.0)


def test_a_window_that_is_over_does_not_count_as_anothers() -> None:
    """Where only one window is left in a cell, it is known whose that is."""
    sketch = crowded()
    sketch.save("old", 7, 60.0, 0.0)

    sketch.save("new", 1, 120.0, 60.0)

    assert sketch.load("new", 61.0) == (1, 120.0)
    assert sketch.load("old", 61.0) == (0, 61.0)


def test_a_stranger_is_known_as_one_where_another_is_alone() -> None:
    """Its cells are all taken, but by a single other key, which has left its mark there."""
    sketch = crowded()
    sketch.save("a", 7, 60.0, 0.0)

    strangers = [sketch.load(number, 1.0) == (0, 1.0) for number in range(100)]

    assert strangers.count(True) > 95  # one mark in 65,536 is the same by chance


def test_a_stranger_is_mistaken_where_there_are_several() -> None:
    """Then it is taken to have used as much, and as lately, as whoever has used most."""
    sketch = crowded()
    for number in range(1, 8):
        sketch.save(number, number, 100.0 - number, 0.0)

    assert sketch.load("stranger", 1.0) == (7, 99.0)
    assert sketch.load(1, 1.0) == (7, 99.0)


def test_nobody_can_tell_which_keys_are_mistaken_for_others() -> None:
    """Every sketch has a salt of its own, so no one can choose a client to be mistaken for."""

    def mistaken() -> set[str]:
        sketch = WindowSketch(width=64)
        for number in range(100):
            sketch.save(number, 7, 60.0, 0.0)
        return {key for key in map(str, range(1000)) if sketch.load(key, 1.0)[0]}

    assert mistaken() != mistaken()


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 9), st.integers(1, 9)), max_size=80
    )
)
def test_the_most_a_key_can_be_taken_for_is_the_most_that_any_has_used(
    requests: list[tuple[int, int, int]],
) -> None:
    """Nothing is added up: many clients that used little are no one that used much."""
    sketch = crowded()
    for key, used, ends in requests:
        sketch.save(key, used, float(ends), 0.0)

    for key in range(31):
        assert sketch.load(key, 0.0)[0] <= max((used for _, used, _ in requests), default=0)


def test_nothing_used_leaves_no_trace() -> None:
    """Neither of the key, nor in what others have left in its cells."""
    sketch = crowded()
    sketch.save("a", 3, 60.0, 0.0)

    for number in range(10):
        sketch.save(number, 0, 90.0, 1.0)

    assert sketch.load("a", 2.0) == (3, 60.0)
    assert [sketch.load(number, 2.0)[0] for number in range(10)].count(0) > 8


@pytest.mark.parametrize("used", [2**64 - 1, 2**64, 10**30])
def test_there_is_an_end_to_counting(used: int) -> None:
    """What no cell can hold is remembered as the most that one can."""
    sketch = WindowSketch(width=1024)

    sketch.save("a", used, 60.0, 0.0)
    sketch.save("b", 2 * used, 60.0, 0.0)

    assert sketch.load("a", 1.0) == sketch.load("b", 1.0)
    assert sketch.load("a", 1.0)[0] >= 2**48 - 1


def test_a_key_can_be_forgotten() -> None:
    """A forgotten key starts anew."""
    sketch = WindowSketch(width=1024)

    sketch.save("a", 7, 60.0, 0.0)
    sketch.clear("a")

    assert sketch.load("a", 1.0) == (0, 1.0)


def test_to_forget_a_key_costs_no_other_anything_if_one_cell_is_its_own() -> None:
    """That is so nearly always, although it shares some of its four cells in half the cases."""
    damaged = 0
    for _ in range(200):
        sketch = WindowSketch(width=64)
        for key in range(12):
            sketch.save((key, "one of many"), 7, 60.0, 0.0)
        sketch.clear((0, "one of many"))
        assert sketch.load((0, "one of many"), 1.0) == (0, 1.0)
        others = [sketch.load((key, "one of many"), 1.0) for key in range(1, 12)]
        damaged += others != [(7, 60.0)] * 11

    assert damaged <= 8  # one in 1,500 has no cell of its own


def test_a_key_with_no_cell_of_its_own_is_forgotten_all_the_same() -> None:
    """Others lose something by it, as the reset of a key must work."""
    sketch = crowded()
    for number in range(8):
        sketch.save(number, 7, 60.0, 0.0)

    sketch.clear(0)

    assert sketch.load(0, 1.0) == (0, 1.0)
