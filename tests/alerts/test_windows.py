"""Counts of the recent past: against a log that forgets nothing."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.windows import OVERFLOW, SlidingCounts, Streak, Streaks, Tally


class Arrival(NamedTuple):
    """One request: how many windows after the one before, whose, and how it went."""

    later: float
    subject: str
    failed: bool


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        later=st.one_of(st.floats(0, 0.2), st.floats(0, 2)),
        subject=st.sampled_from("abc"),
        failed=st.booleans(),
    ),
    max_size=60,
)


@given(
    arrivals=ARRIVALS, window=st.floats(0.5, 1000), start=st.floats(0, 1e6), rest=st.floats(0, 2)
)
def test_a_count_misses_nothing_of_the_window_and_covers_at_most_a_tenth_more(
    arrivals: list[Arrival], window: float, start: float, rest: float
) -> None:
    """The truth over `window` is never above the count, nor the truth over 1.1 x it below."""
    counts, now = SlidingCounts(window=window, max_subjects=3), start
    log: list[tuple[float, Arrival]] = []
    tolerance = 1e-8 * (start + window)  # what the floats of the steps may be off by

    for arrival in arrivals:
        now += arrival.later * window
        counts.add(arrival.subject, failed=arrival.failed, now=now)
        log.append((now, arrival))
    now += rest * window
    counts.expire(now)

    found = {subject: (requests, failures) for subject, requests, failures in counts.failing()}
    for subject in "abc":
        own = [(now - at, each.failed) for at, each in log if each.subject == subject]
        within = [failed for age, failed in own if age <= window - tolerance]
        around = [failed for age, failed in own if age <= window * 1.1 + tolerance]
        if subject in found:
            assert len(within) <= found[subject][0] <= len(around)
            assert max(1, sum(within)) <= found[subject][1] <= sum(around)
        else:
            assert sum(within) == 0


def test_the_window_moves_in_ten_steps_and_keeps_the_oldest_whole() -> None:
    """A window of 100 s forgets a step of 10 s when the tenth step after it is over."""
    counts = SlidingCounts(window=100, max_subjects=5)
    counts.add("a", failed=True, now=1000)
    counts.add("a", failed=True, now=1009)
    counts.add("a", failed=True, now=1010)

    counts.expire(1109)
    assert list(counts.failing()) == [("a", 3, 3)]
    counts.expire(1110)
    assert list(counts.failing()) == [("a", 1, 1)]
    counts.expire(1120)
    assert list(counts.failing()) == []


def test_only_subjects_that_failed_are_given() -> None:
    """Successes are counted, but whoever has nothing else needs no looking at."""
    counts = SlidingCounts(window=100, max_subjects=5)
    counts.add("a", failed=False, now=0)
    counts.add("b", failed=False, now=0)
    counts.add("b", failed=True, now=50)

    assert list(counts.failing()) == [("b", 2, 1)]


@given(subjects=st.lists(st.integers(0, 20), max_size=60), most=st.integers(1, 5))
def test_the_subjects_that_are_told_apart_are_bounded_and_none_is_lost(
    subjects: list[int], most: int
) -> None:
    """What does not fit is counted under one name more, so the sum stays right."""
    counts = SlidingCounts(window=100, max_subjects=most)

    for subject in subjects:
        counts.add(str(subject), failed=True, now=0)

    found = {subject: requests for subject, requests, _ in counts.failing()}
    assert found.keys() - {OVERFLOW} == set(list(dict.fromkeys(map(str, subjects)))[:most])
    assert sum(found.values()) == len(subjects)


@given(arrivals=ARRIVALS, most=st.integers(1, 2))
def test_the_bound_holds_and_the_sum_is_right_while_time_passes(
    arrivals: list[Arrival], most: int
) -> None:
    """However subjects come and go, all that is in the window is counted under some name."""
    counts, now = SlidingCounts(window=10, max_subjects=most), 0.0
    log: list[float] = []

    for arrival in arrivals:
        now += round(arrival.later * 10)
        counts.add(arrival.subject, failed=True, now=now)
        log.append(now)

        found = {subject: requests for subject, requests, _ in counts.failing()}
        assert len(found.keys() - {OVERFLOW}) <= most
        assert sum(found.values()) == sum(now - at <= 10 for at in log)


def test_a_subject_whose_slots_have_all_expired_makes_room() -> None:
    """What lies outside the window takes no one's place."""
    counts = SlidingCounts(window=100, max_subjects=1)
    counts.add("a", failed=True, now=0)
    counts.add("b", failed=True, now=50)
    assert sorted(counts.failing()) == [(OVERFLOW, 1, 1), ("a", 1, 1)]

    counts.add("b", failed=True, now=1000)

    assert list(counts.failing()) == [("b", 1, 1)]


def test_a_subject_that_goes_on_takes_one_place() -> None:
    """Being active in two steps of the window does not count as two subjects."""
    counts = SlidingCounts(window=100, max_subjects=2)
    for subject, now in [("a", 0), ("a", 10), ("b", 10)]:
        counts.add(subject, failed=True, now=now)

    assert sorted(counts.failing()) == [("a", 2, 2), ("b", 1, 1)]


def test_a_clock_that_has_not_moved_expires_nothing() -> None:
    """Moving the window on to where it is changes no count."""
    counts = SlidingCounts(window=100, max_subjects=1)
    counts.add("a", failed=True, now=1000)

    counts.expire(1000)
    counts.expire(1009.9)

    assert list(counts.failing()) == [("a", 1, 1)]


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_a_streak_knows_the_failures_in_a_row_and_the_last_twenty_outcomes(
    outcomes: list[bool],
) -> None:
    """It is the same as looking the outcomes up in a list."""
    streak = Streak()

    for failed in outcomes:
        streak.add(failed=failed)

    in_a_row = outcomes[::-1].index(False) if False in outcomes else len(outcomes)
    assert (streak.failures, streak.seen) == (in_a_row, len(outcomes[-20:]))
    assert streak.failed_lately == sum(outcomes[-20:])


@given(
    outcomes=st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60),
    most=st.integers(1, 6),
)
def test_beyond_the_bound_the_subject_unheard_of_longest_is_forgotten(
    outcomes: list[tuple[str, bool]], most: int
) -> None:
    """The streaks are those of the subjects heard of last, since they were heard of first."""
    streaks = Streaks[str](max_subjects=most)
    kept: OrderedDict[str, int] = OrderedDict()

    for subject, failed in outcomes:
        streaks.add(subject, failed=failed)
        in_a_row = kept.pop(subject, 0) + 1
        kept[subject] = in_a_row if failed else 0
        if len(kept) > most:
            kept.popitem(last=False)

    failing = {subject: in_a_row for subject, in_a_row in kept.items() if in_a_row}
    assert {subject: streak.failures for subject, streak in streaks.failing()} == failing


def test_a_success_takes_a_subject_from_the_failing() -> None:
    """Only those whose last outcome was a failure need looking at."""
    streaks = Streaks[str](max_subjects=5)
    for subject, failed in [("a", True), ("b", True), ("a", False)]:
        streaks.add(subject, failed=failed)

    assert [subject for subject, _ in streaks.failing()] == ["b"]


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


def test_a_tally_begins_anew_when_it_is_cleared() -> None:
    """A round counts what happened in it."""
    tally = Tally(max_subjects=1)
    tally.add("a")

    tally.clear()
    tally.add("b")

    assert list(tally.items()) == [("b", 1)]
