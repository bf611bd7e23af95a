"""A tally: how often something happened to each subject since the last round."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.windows import OVERFLOW, Tally


@given(events=st.lists(st.sampled_from("abcde"), max_size=40), most=st.integers(1, 6))
def test_a_tally_counts_each_of_the_first_subjects_and_the_rest_together(
    events: list[str], most: int
) -> None:
    """Beyond the bound events are counted under one name, so none is lost."""
    tally = Tally(max_subjects=most)

    for subject in events:
        tally.add(subject)

    first = list(dict.fromkeys(events))[:most]
    expected = Counter(subject if subject in first else OVERFLOW for subject in events)
    assert dict(tally.items()) == expected
    assert tally.overflowed == expected[OVERFLOW]


def test_a_tally_begins_anew_when_it_is_cleared() -> None:
    """A round counts what happened in it."""
    tally = Tally(max_subjects=1)
    tally.add("a")

    tally.clear()
    tally.add("b")

    assert list(tally.items()) == [("b", 1)]


def test_several_events_can_be_counted_at_once() -> None:
    """What was gathered before is added as it is."""
    tally = Tally(max_subjects=1)

    tally.add("a", 3)
    tally.add("a", 2)
    tally.add("b", 4)

    assert dict(tally.items()) == {"a": 5, OVERFLOW: 4}
    assert tally.overflowed == 4
