"""Counts of a window that moves on: against a log that forgets nothing."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.traffic import OVERFLOW, ErrorWindow, EvaluationCounter, RollingWindow


class Arrival(NamedTuple):
    """Requests at a time: how many windows after those before, whose, and what they weigh."""

    later: float
    subject: str
    times: int
    weight: int


def arrivals(
    later: st.SearchStrategy[float], *, most: int = 60
) -> st.SearchStrategy[list[Arrival]]:
    """Arrivals so far apart."""
    one = st.builds(
        Arrival,
        later=later,
        subject=st.sampled_from("abc"),
        times=st.integers(1, 1000),
        weight=st.one_of(st.just(0), st.integers(0, 10**12)),
    )
    return st.lists(one, max_size=most)


RANDOM = st.floats(0, 2)


BURSTY = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0.9, 1.3))


CRON = st.sampled_from([0.1, 0.5, 1.0])  # on the very bounds of the steps


TRAFFIC = st.one_of(arrivals(RANDOM), arrivals(BURSTY), arrivals(CRON))


def ring(*, window: float = 100, most: int = 5) -> RollingWindow[str]:
    """A window that moves in ten steps."""
    return RollingWindow(window=window, slots=10, max_subjects=most, overflow=OVERFLOW)


def counted(filled: RollingWindow[str]) -> dict[str, tuple[int, int]]:
    """What is counted of each subject."""
    return {subject: (count, weight) for subject, count, weight in filled.items()}


@given(traffic=TRAFFIC, window=st.floats(0.5, 1e5), start=st.floats(0, 1e6), rest=st.floats(0, 2))
def test_a_count_misses_nothing_of_the_window_and_covers_at_most_a_step_more(
    traffic: list[Arrival], window: float, start: float, rest: float
) -> None:
    """The truth over the window is never above the count, nor that over a step more below it."""
    counts, now = ring(window=window), start
    log: list[tuple[float, Arrival]] = []
    tolerance = 1e-8 * (start + window)  # what the floats of the steps may be off by

    for arrival in traffic:
        now += arrival.later * window
        counts.expire(now)
        counts.add(arrival.subject, arrival.times, arrival.weight)
        log.append((now, arrival))
    now += rest * window
    counts.expire(now)

    for subject in "abc":
        own = [(now - at, each) for at, each in log if each.subject == subject]
        within = [each for age, each in own if age <= window - tolerance]
        around = [each for age, each in own if age <= window * 1.1 + tolerance]
        count, weight = counts.get(subject)
        assert sum(each.times for each in within) <= count <= sum(each.times for each in around)
        assert sum(each.weight for each in within) <= weight <= sum(each.weight for each in around)


@given(traffic=TRAFFIC)
def test_no_count_is_ever_below_1_nor_a_weight_below_0(traffic: list[Arrival]) -> None:
    """Whatever leaves the window had been counted; a subject of which nothing is left is gone."""
    counts, now = ring(), 0.0

    for arrival in traffic:
        now += arrival.later * 100
        counts.expire(now)
        assert all(count >= 1 and weight >= 0 for _, count, weight in counts.items())
        counts.add(arrival.subject, arrival.times, arrival.weight)


def test_the_window_moves_in_steps_and_keeps_the_oldest_whole() -> None:
    """A window of 100 s forgets a step of 10 s when the tenth step after it is over."""
    counts = ring()
    for now in (1000, 1009, 1010):
        counts.expire(now)
        counts.add("a", 1, 7)

    counts.expire(1109)
    assert counts.get("a") == (3, 21)
    counts.expire(1110)
    assert counts.get("a") == (1, 7)
    counts.expire(1120)
    assert counts.get("a") == (0, 0)


def test_it_says_when_the_next_step_begins() -> None:
    """Until then nothing need be moved before something is counted."""
    counts = ring()

    counts.expire(1003)

    assert counts.next_at == 1010


def test_a_clock_that_has_not_moved_expires_nothing() -> None:
    """Moving the window on to where it is changes no count."""
    counts = ring(most=1)
    counts.expire(1000)
    counts.add("a", 1)

    counts.expire(1000)
    counts.expire(1009.9)

    assert counted(counts) == {"a": (1, 0)}


def test_a_silence_longer_than_the_window_forgets_all_at_once() -> None:
    """However much was counted, it takes one step to be rid of it."""
    counts = ring(most=5000)
    counts.expire(0)
    for number in range(5000):
        counts.add(str(number), 1)

    counts.expire(1000)

    assert counted(counts) == {}


def test_a_step_that_leaves_the_window_is_forgotten_in_portions() -> None:
    """Forgetting many subjects holds nobody up: 1,000 at a time, and the rest counts on."""
    counts = ring(most=5000)
    counts.expire(0)
    for number in range(2500):
        counts.add(str(number), 1)
    counts.expire(50)
    counts.add("late", 1)

    left = []
    counts.expire(110)
    left.append(len(counted(counts)))
    counts.drain()
    left.append(len(counted(counts)))
    counts.expire(111)
    left.append(len(counted(counts)))

    assert left == [1501, 501, 1]


def test_a_portion_goes_on_into_the_next_step_that_has_left() -> None:
    """Several short steps are forgotten together."""
    counts = ring()
    for now in (0, 10, 20, 115):
        counts.expire(now)
        counts.add(str(now), 1)

    counts.expire(125)

    assert counted(counts).keys() == {"20", "115"}


@given(subjects=st.lists(st.integers(0, 20), max_size=60), most=st.integers(1, 5))
def test_the_subjects_that_are_told_apart_are_bounded_and_none_is_lost(
    subjects: list[int], most: int
) -> None:
    """What does not fit is counted under one name more, so the sum stays right."""
    counts = ring(most=most)
    counts.expire(0)

    for subject in subjects:
        counts.add(str(subject), 1, 1)

    found = counted(counts)
    assert found.keys() - {OVERFLOW} == set(list(dict.fromkeys(map(str, subjects)))[:most])
    assert sum(count for count, _ in found.values()) == len(subjects)
    assert counts.overflowed == found.get(OVERFLOW, (0, 0))[0]


@given(traffic=arrivals(RANDOM), most=st.integers(1, 2))
def test_the_bound_holds_and_the_sum_is_right_while_time_passes(
    traffic: list[Arrival], most: int
) -> None:
    """However subjects come and go, all that is in the window is counted under some name."""
    counts, now = ring(window=10, most=most), 0.0
    log: list[tuple[float, int]] = []

    for arrival in traffic:
        now += round(arrival.later * 10)
        counts.expire(now)
        counts.add(arrival.subject, arrival.times)
        log.append((now, arrival.times))

        found = counted(counts)
        assert len(found.keys() - {OVERFLOW}) <= most
        assert sum(count for count, _ in found.values()) == sum(
            count for at, count in log if now - at <= 10
        )


def test_a_subject_whose_steps_have_all_gone_makes_room() -> None:
    """What lies outside the window takes no one's place, nor do those that had none."""
    counts = ring(most=1)
    for subject, now in [("a", 0), ("b", 50)]:
        counts.expire(now)
        counts.add(subject, 1)
    assert counted(counts) == {"a": (1, 0), OVERFLOW: (1, 0)}

    counts.expire(110)
    counts.add("b", 1)

    assert counted(counts) == {OVERFLOW: (1, 0), "b": (1, 0)}
    assert counts.overflowed == 1


def test_a_subject_that_goes_on_takes_one_place() -> None:
    """Being active in two steps of the window does not count as two subjects."""
    counts = ring(most=2)
    for subject, now in [("a", 0), ("a", 10), ("b", 10)]:
        counts.expire(now)
        counts.add(subject, 1)

    assert counted(counts) == {"a": (2, 0), "b": (1, 0)}


@given(
    traffic=TRAFFIC,
    count=st.integers(1, 3000),
    weight=st.integers(1, 10**13),
    rounds=st.sets(st.integers(0, 60)),
)
def test_hot_are_exactly_those_that_a_full_scan_at_every_moment_finds(
    traffic: list[Arrival], count: int, weight: int, rounds: set[int]
) -> None:
    """Whoever reached a level since the round began is there, with the highest while it did."""
    counts, now = ring(), 0.0
    counts.set_levels(count=count, weight=weight)
    peaks: dict[str, tuple[int, int]] = {}

    def scan(added: str) -> None:
        for subject, *found in counts.items():
            if subject not in added:
                continue
            peak = peaks.get(subject, (0, 0))
            if found[0] >= count or found[1] >= weight:
                peaks[subject] = max(peak[0], found[0]), max(peak[1], found[1])

    for number, arrival in enumerate(traffic):
        now += arrival.later * 100
        counts.expire(now)
        if number in rounds:
            counts.begin_evaluation()
            peaks.clear()
            scan("abc")
            peaks.update(dict.fromkeys(peaks, (0, 0)))
        counts.add(arrival.subject, arrival.times, arrival.weight)
        scan(arrival.subject)

        expected = {
            subject: (max(peak[0], counts.get(subject)[0]), max(peak[1], counts.get(subject)[1]))
            for subject, peak in peaks.items()
        }
        assert {subject: (top, most) for subject, top, most in counts.maxima()} == expected
        assert {subject: (at, by) for subject, at, by in counts.candidates()} == {
            subject: counts.get(subject) for subject in peaks
        }


def test_a_peak_between_two_rounds_is_seen_though_it_has_left_the_window() -> None:
    """A spike that is over when the round comes was a spike."""
    counts = ring(window=10)
    counts.set_levels(count=3)
    counts.expire(0)
    counts.add("a", 5)

    counts.expire(60)
    assert list(counts.maxima()) == [("a", 5, 0)]
    assert list(counts.candidates()) == [("a", 0, 0)]
    counts.begin_evaluation()
    assert list(counts.maxima()) == []


def test_a_peak_that_the_last_round_has_seen_is_not_seen_again() -> None:
    """What had reached a level when the round began is judged by what it has done since."""
    counts = ring(window=10)
    counts.set_levels(count=3)
    counts.expire(0)
    counts.add("a", 5)
    counts.begin_evaluation()
    assert list(counts.maxima()) == [("a", 5, 0)]

    counts.expire(60)

    assert list(counts.maxima()) == [("a", 0, 0)]


def test_without_levels_nobody_is_hot() -> None:
    """A threshold that is off costs nothing in a round."""
    counts = ring()
    counts.expire(0)

    counts.add("a", 10**9, 10**15)

    assert list(counts.maxima()) == []


def test_a_level_that_is_lowered_finds_who_had_reached_it_before() -> None:
    """A threshold set at run time applies to the traffic there has been."""
    counts = ring()
    counts.expire(0)
    counts.add("a", 5)
    counts.add("b", 2)

    counts.set_levels(count=3)

    assert list(counts.maxima()) == [("a", 5, 0)]


def test_a_level_that_is_raised_keeps_the_peaks_above_it() -> None:
    """Between two rounds a peak is not forgotten for a change of the threshold."""
    counts = ring(window=10)
    counts.set_levels(weight=1)
    counts.expire(0)
    counts.add("high", 1, 9)
    counts.add("low", 1, 2)
    counts.expire(60)

    counts.set_levels(weight=5)

    assert list(counts.maxima()) == [("high", 1, 9)]


def test_the_hot_are_bounded_where_no_round_ever_begins() -> None:
    """An engine that does not run must not gather peaks for ever; those lost are counted."""
    counts = ring(window=10, most=3)
    counts.set_levels(count=1)

    for number in range(100):
        counts.expire(number * 60)
        counts.add(str(number), 1)

    assert len(list(counts.maxima())) <= 2 * 3 + 1
    assert counts.overflowed == 100 - len(list(counts.maxima()))
    assert "99" in [subject for subject, *_ in counts.maxima()]


@pytest.mark.parametrize("tokens", [10**12, 2**53])
def test_a_day_of_tokens_does_not_spill_into_the_requests(tokens: int) -> None:
    """Two counts that share an integer stay apart, however large the second becomes."""
    counts = ring()
    counts.expire(0)

    for _ in range(1000):
        counts.add("a", 1000, tokens)

    assert counts.get("a") == (10**6, 1000 * tokens)


@pytest.mark.parametrize("level", [3, 1000])
def test_other_levels_for_a_moment_leave_everything_as_it_was(level: int) -> None:
    """A peak that has passed is there still, and nobody is hot who was not."""
    counts = ring(window=10)
    counts.set_levels(count=50)
    counts.expire(0)
    counts.add("passed", 100)
    counts.expire(60)
    counts.add("low", 5)

    with counts.preserve_levels():
        counts.set_levels(count=level)
        assert ("low" in [subject for subject, *_ in counts.maxima()]) == (level == 3)

    assert list(counts.maxima()) == [("passed", 100, 0)]
    counts.add("later", 49)
    assert list(counts.maxima()) == [("passed", 100, 0)]
    counts.add("later", 1)
    assert list(counts.maxima()) == [("passed", 100, 0), ("later", 50, 0)]


def test_who_has_failed_often_is_looked_at_until_nothing_of_it_is_left() -> None:
    """While failures leave the window requests do so too, and the share may be as high as ever."""
    errors = ErrorWindow(window=100, slots=10, max_subjects=5, overflow=OVERFLOW)
    errors.set_levels(weight=3)
    errors.expire(0)
    errors.add("often", 10, 3)
    errors.add("seldom", 2, 2)
    errors.expire(50)
    errors.add("often", 5, 1)

    seen = []
    for now in (50, 110, 160):
        errors.expire(now)
        seen.append(list(errors.candidates()))
        errors.begin_evaluation()

    assert seen == [[("often", 15, 4)], [("often", 5, 1)], [("often", 0, 0)]]
    errors.add("often", 1, 1)
    assert list(errors.candidates()) == []


def test_only_subjects_that_failed_are_given() -> None:
    """Successes are counted, but whoever has nothing else needs no looking at."""
    errors = ErrorWindow(window=100, slots=10, max_subjects=5, overflow=OVERFLOW)
    errors.expire(0)
    errors.add("a", 1, 0)
    errors.add("b", 1, 0)
    errors.add("c", 1, 1)
    errors.expire(50)
    errors.add("b", 1, 1)

    assert sorted(errors.failing()) == [("b", 2, 1), ("c", 1, 1)]
    errors.expire(110)
    assert list(errors.failing()) == [("b", 1, 1)]


@given(events=st.lists(st.sampled_from("abcde"), max_size=40), most=st.integers(1, 6))
def test_a_tally_counts_each_of_the_first_subjects_and_the_rest_together(
    events: list[str], most: int
) -> None:
    """Beyond the bound events are counted under one name, so none is lost."""
    tally = EvaluationCounter(max_subjects=most)

    for subject in events:
        tally.add(subject)

    first = list(dict.fromkeys(events))[:most]
    expected = Counter(subject if subject in first else OVERFLOW for subject in events)
    assert dict(tally.items()) == expected
    assert tally.overflowed == expected[OVERFLOW]


def test_a_tally_begins_anew_when_it_is_cleared() -> None:
    """A round counts what happened in it."""
    tally = EvaluationCounter(max_subjects=1)
    tally.add("a")

    tally.clear()
    tally.add("b")

    assert list(tally.items()) == [("b", 1)]


def test_several_events_can_be_counted_at_once() -> None:
    """What was gathered before is added as it is."""
    tally = EvaluationCounter(max_subjects=1)

    tally.add("a", 3)
    tally.add("a", 2)
    tally.add("b", 4)

    assert dict(tally.items()) == {"a": 5, OVERFLOW: 4}
    assert tally.overflowed == 4
