"""The sketch: it may remember too much of a window, never too little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.sketch import WindowSketch

windows = st.dictionaries(
    st.integers(), st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=50
)


@given(windows=windows, now=st.floats(0, 100))
def test_no_window_is_remembered_as_less_than_it_was(
    windows: dict[int, tuple[int, float]], now: float
) -> None:
    """However many keys share its cells, what a key used and when its window ends are kept."""
    sketch = WindowSketch(width=8)
    for key, (used, ends) in windows.items():
        sketch.remember(key, used, ends, 0.0)

    for key, (used, ends) in windows.items():
        recalled, until = sketch.recall(key, now)
        if ends > now:
            assert recalled >= used
            assert until >= ends


def test_a_window_alone_is_remembered_exactly() -> None:
    """Without others in its cells, a key is recalled as it was, until its window is over."""
    sketch = WindowSketch(width=1024)

    sketch.remember("a", 7, 60.0, 0.0)

    assert sketch.recall("a", 59.0) == (7, 60.0)
    assert sketch.recall("a", 60.0) == (0, 60.0)
    assert sketch.recall("b", 0.0) == (0, 0.0)


def test_the_same_window_is_not_added_up() -> None:
    """A key that leaves the table again brings its whole count, which replaces the former."""
    sketch = WindowSketch(width=1024)

    sketch.remember("a", 7, 60.0, 0.0)
    sketch.remember("a", 9, 60.0, 1.0)

    assert sketch.recall("a", 2.0) == (9, 60.0)


def test_a_window_that_is_over_leaves_no_trace() -> None:
    """Its cells are used anew, so old counts do not pile up."""
    sketch = WindowSketch(width=1024)

    sketch.remember("a", 7, 60.0, 0.0)
    sketch.remember("a", 1, 120.0, 60.0)

    assert sketch.recall("a", 61.0) == (1, 120.0)


def test_a_key_can_be_forgotten() -> None:
    """A forgotten key starts anew."""
    sketch = WindowSketch(width=1024)

    sketch.remember("a", 7, 60.0, 0.0)
    sketch.forget("a")

    assert sketch.recall("a", 1.0) == (0, 1.0)
