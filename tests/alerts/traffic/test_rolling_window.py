"""Rolling windows, compared with a log of all events."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.traffic import OVERFLOW, ErrorWindow, EvaluationCounter, RollingWindow
from tokenpulse_mw.alerts.traffic.rolling_window import SHIFT


class Arrival(NamedTuple):
    """An event, `later` windows after the previous one."""

    later: float
    subject: str
    times: int
    weight: int


def arrivals(
    later: st.SearchStrategy[float], *, most: int = 60
) -> st.SearchStrategy[list[Arrival]]:
    """Return a strategy for lists of at most `most` arrivals with these distances."""
    arrival = st.builds(
        Arrival,
        later=later,
        subject=st.sampled_from("abc"),
        times=st.integers(1, 1000),
        weight=st.one_of(st.just(0), st.integers(0, 10**12)),
    )
    return st.lists(arrival, max_size=most)


RANDOM = st.floats(0, 2)


BURSTY = st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0.9, 1.3))


CRON = st.sampled_from([0.1, 0.5, 1.0])  # exactly on the bounds of the steps


TRAFFIC = st.one_of(arrivals(RANDOM), arrivals(BURSTY), arrivals(CRON))


class TimedWindow(RollingWindow[str]):
    """Window that counts at the time of the last `expire`."""

    _now = 0.0

    def expire(self, now: float) -> None:
        """Move the window on to `now`."""
        self._now = max(self._now, now)
        super().expire(now)

    def add(self, subject: str, count: int, weight: int = 0) -> None:
        """Add to a subject."""
        finish(self.add_all({subject: count | weight << SHIFT}, self._now))


class TimedErrorWindow(TimedWindow, ErrorWindow[str]):
    """Error window that counts at the time of the last `expire`."""


def rolling_window(*, window: float = 100, most: int = 5) -> TimedWindow:
    """Return a window with ten steps."""
    return TimedWindow(window=window, step=window / 10, max_subjects=most, overflow=OVERFLOW)


def counts_of(window: RollingWindow[str]) -> dict[str, tuple[int, int]]:
    """Return count and weight of each subject."""
    return {subject: (count, weight) for subject, count, weight in window.items()}


@given(traffic=TRAFFIC, window=st.floats(0.5, 1e5), start=st.floats(0, 1e6), rest=st.floats(0, 2))
def test_count_covers_the_window_and_at_most_one_step_more(
    traffic: list[Arrival], window: float, start: float, rest: float
) -> None:
    """The count is between that of the window and that of the window plus one step."""
    counts, now = rolling_window(window=window), start
    log: list[tuple[float, Arrival]] = []
    tolerance = 1e-8 * (start + window)  # for float rounding of the steps

    for arrival in traffic:
        now += arrival.later * window
        counts.expire(now)
        counts.add(arrival.subject, arrival.times, arrival.weight)
        log.append((now, arrival))
    now += rest * window
    counts.expire(now)

    for subject in "abc":
        ages = [(now - at, arrival) for at, arrival in log if arrival.subject == subject]
        least = [arrival for age, arrival in ages if age <= window - tolerance]
        most = [arrival for age, arrival in ages if age <= window * 1.1 + tolerance]
        count, weight = counts.get(subject)
        assert sum(a.times for a in least) <= count <= sum(a.times for a in most)
        assert sum(a.weight for a in least) <= weight <= sum(a.weight for a in most)


@given(traffic=TRAFFIC)
def test_counts_are_at_least_1_and_weights_at_least_0(traffic: list[Arrival]) -> None:
    """Expiry subtracts exactly what was added, and removes subjects without a count."""
    counts, now = rolling_window(), 0.0

    for arrival in traffic:
        now += arrival.later * 100
        counts.expire(now)
        assert all(count >= 1 and weight >= 0 for _, count, weight in counts.items())
        counts.add(arrival.subject, arrival.times, arrival.weight)


def test_window_expires_whole_steps() -> None:
    """A window of 100 s expires a step of 10 s at the end of the tenth step after it."""
    counts = rolling_window()
    for now in (1000, 1009, 1010):
        counts.expire(now)
        counts.add("a", 1, 7)

    counts.expire(1109)
    assert counts.get("a") == (3, 21)
    counts.expire(1110)
    assert counts.get("a") == (1, 7)
    counts.expire(1120)
    assert counts.get("a") == (0, 0)


def test_expire_within_the_same_step_changes_nothing() -> None:
    """A repeated call of `expire` does not change the counts."""
    counts = rolling_window(most=1)
    counts.expire(1000)
    counts.add("a", 1)

    counts.expire(1000)
    counts.expire(1009.9)

    assert counts_of(counts) == {"a": (1, 0)}


def test_gap_longer_than_the_window_resets_all_counts_at_once() -> None:
    """Any number of counts is reset in one step."""
    counts = rolling_window(most=5000)
    counts.expire(0)
    for number in range(5000):
        counts.add(str(number), 1)

    counts.expire(1000)

    assert counts_of(counts) == {}


def test_expired_step_is_subtracted_in_batches() -> None:
    """Each call subtracts at most 1,000 subjects; the rest is still counted."""
    counts = rolling_window(most=5000)
    counts.expire(0)
    for number in range(2500):
        counts.add(str(number), 1)
    counts.expire(50)
    counts.add("late", 1)

    sizes = []
    counts.expire(110)
    sizes.append(len(counts_of(counts)))
    counts.drain()
    sizes.append(len(counts_of(counts)))
    counts.expire(111)
    sizes.append(len(counts_of(counts)))

    assert sizes == [1501, 501, 1]


def test_batch_continues_with_the_next_expired_step() -> None:
    """Several small steps are subtracted in one batch."""
    counts = rolling_window()
    for now in (0, 10, 20, 115):
        counts.expire(now)
        counts.add(str(now), 1)

    counts.expire(125)

    assert counts_of(counts).keys() == {"20", "115"}


@given(subjects=st.lists(st.integers(0, 20), max_size=60), most=st.integers(1, 5))
def test_subjects_beyond_max_subjects_are_counted_as_overflow(
    subjects: list[int], most: int
) -> None:
    """The sum over all subjects, overflow included, stays exact."""
    counts = rolling_window(most=most)
    counts.expire(0)

    for subject in subjects:
        counts.add(str(subject), 1, 1)

    result = counts_of(counts)
    assert result.keys() - {OVERFLOW} == set(list(dict.fromkeys(map(str, subjects)))[:most])
    assert sum(count for count, _ in result.values()) == len(subjects)
    assert counts.overflowed == result.get(OVERFLOW, (0, 0))[0]


@given(traffic=arrivals(RANDOM), most=st.integers(1, 2))
def test_number_of_subjects_is_bounded_while_subjects_expire(
    traffic: list[Arrival], most: int
) -> None:
    """Every event in the window is counted, as its subject or as overflow."""
    counts, now = rolling_window(window=10, most=most), 0.0
    log: list[tuple[float, int]] = []

    for arrival in traffic:
        now += round(arrival.later * 10)
        counts.expire(now)
        counts.add(arrival.subject, arrival.times)
        log.append((now, arrival.times))

        result = counts_of(counts)
        assert len(result.keys() - {OVERFLOW}) <= most
        assert sum(count for count, _ in result.values()) == sum(
            count for at, count in log if now - at <= 10
        )


def test_expired_subject_frees_its_slot() -> None:
    """A new subject is counted separately as soon as another one has expired."""
    counts = rolling_window(most=1)
    for subject, now in [("a", 0), ("b", 50)]:
        counts.expire(now)
        counts.add(subject, 1)
    assert counts_of(counts) == {"a": (1, 0), OVERFLOW: (1, 0)}

    counts.expire(110)
    counts.add("b", 1)

    assert counts_of(counts) == {OVERFLOW: (1, 0), "b": (1, 0)}
    assert counts.overflowed == 1


def test_subject_active_in_two_steps_takes_one_slot() -> None:
    """`max_subjects` counts subjects, not steps."""
    counts = rolling_window(most=2)
    for subject, now in [("a", 0), ("a", 10), ("b", 10)]:
        counts.expire(now)
        counts.add(subject, 1)

    assert counts_of(counts) == {"a": (2, 0), "b": (1, 0)}


@given(
    traffic=TRAFFIC,
    count=st.integers(1, 3000),
    weight=st.integers(1, 10**13),
    evaluations=st.sets(st.integers(0, 60)),
)
def test_hot_subjects_and_maxima_equal_those_of_a_full_scan(
    traffic: list[Arrival], count: int, weight: int, evaluations: set[int]
) -> None:
    """A subject is hot if it reached a level since the start of the evaluation."""
    counts, now = rolling_window(), 0.0
    counts.set_levels(count=count, weight=weight)
    maxima: dict[str, tuple[int, int]] = {}

    def scan(subjects: str) -> None:
        for subject, *current in counts.items():
            if subject not in subjects:
                continue
            maximum = maxima.get(subject, (0, 0))
            if current[0] >= count or current[1] >= weight:
                maxima[subject] = max(maximum[0], current[0]), max(maximum[1], current[1])

    for number, arrival in enumerate(traffic):
        now += arrival.later * 100
        counts.expire(now)
        if number in evaluations:
            counts.begin_evaluation(finish(counts.next_hot()))
            maxima.clear()
            scan("abc")
            maxima.update(dict.fromkeys(maxima, (0, 0)))
        counts.add(arrival.subject, arrival.times, arrival.weight)
        scan(arrival.subject)

        expected = {
            subject: (
                max(maximum[0], counts.get(subject)[0]),
                max(maximum[1], counts.get(subject)[1]),
            )
            for subject, maximum in maxima.items()
        }
        assert {subject: (top, most) for subject, top, most in counts.maxima()} == expected
        assert {subject: (at, by) for subject, at, by in counts.candidates()} == {
            subject: counts.get(subject) for subject in maxima
        }


def test_maximum_between_evaluations_outlasts_the_window() -> None:
    """An evaluation finds a spike that has expired already."""
    counts = rolling_window(window=10)
    counts.set_levels(count=3)
    counts.expire(0)
    counts.add("a", 5)

    counts.expire(60)
    assert list(counts.maxima()) == [("a", 5, 0)]
    assert list(counts.candidates()) == [("a", 0, 0)]
    counts.begin_evaluation(finish(counts.next_hot()))
    assert list(counts.maxima()) == []


def test_maximum_of_the_last_evaluation_is_not_found_again() -> None:
    """A hot subject has only the maximum since the last evaluation."""
    counts = rolling_window(window=10)
    counts.set_levels(count=3)
    counts.expire(0)
    counts.add("a", 5)
    counts.begin_evaluation(finish(counts.next_hot()))
    assert list(counts.maxima()) == [("a", 5, 0)]

    counts.expire(60)

    assert list(counts.maxima()) == [("a", 0, 0)]


def test_subject_without_levels_is_not_hot() -> None:
    """A disabled threshold selects no subjects."""
    counts = rolling_window()
    counts.expire(0)

    counts.add("a", 10**9, 10**15)

    assert list(counts.maxima()) == []


def test_lowered_level_selects_subjects_counted_before() -> None:
    """A threshold set at run time applies to the traffic before it."""
    counts = rolling_window()
    counts.expire(0)
    counts.add("a", 5)
    counts.add("b", 2)

    counts.set_levels(count=3)

    assert list(counts.maxima()) == [("a", 5, 0)]


def test_raised_level_keeps_the_maxima_above_it() -> None:
    """A change of the threshold does not drop maxima that the next evaluation must read."""
    counts = rolling_window(window=10)
    counts.set_levels(weight=1)
    counts.expire(0)
    counts.add("high", 1, 9)
    counts.add("low", 1, 2)
    counts.expire(60)

    counts.set_levels(weight=5)

    assert list(counts.maxima()) == [("high", 1, 9)]


def test_hot_subjects_without_evaluations_are_bounded() -> None:
    """An engine that does not run drops old maxima and counts them."""
    counts = rolling_window(window=10, most=3)
    counts.set_levels(count=1)

    for number in range(100):
        counts.expire(number * 60)
        counts.add(str(number), 1)

    assert len(list(counts.maxima())) <= 2 * 3 + 1
    assert counts.overflowed == 100 - len(list(counts.maxima()))
    assert "99" in [subject for subject, *_ in counts.maxima()]


@pytest.mark.parametrize("tokens", [10**12, 2**53])
def test_large_weight_does_not_change_the_count(tokens: int) -> None:
    """Count and weight share an integer, but do not affect each other."""
    counts = rolling_window()
    counts.expire(0)

    for _ in range(1000):
        counts.add("a", 1000, tokens)

    assert counts.get("a") == (10**6, 1000 * tokens)


@pytest.mark.parametrize("level", [3, 1000])
def test_preserve_levels_restores_levels_and_maxima(level: int) -> None:
    """Levels set in the body have no effect after it."""
    counts = rolling_window(window=10)
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


def test_failing_subject_stays_hot_until_its_failures_expire() -> None:
    """Requests expire together with failures, so the error rate may stay high."""
    errors = TimedErrorWindow(window=100, step=10, max_subjects=5, overflow=OVERFLOW)
    errors.set_levels(weight=3)
    errors.expire(0)
    errors.add("often", 10, 3)
    errors.add("seldom", 2, 2)
    errors.expire(50)
    errors.add("often", 5, 1)

    candidates = []
    for now in (50, 110, 160):
        errors.expire(now)
        candidates.append(list(errors.candidates()))
        errors.begin_evaluation(finish(errors.next_hot()))

    assert candidates == [[("often", 15, 4)], [("often", 5, 1)], [("often", 0, 0)]]
    errors.add("often", 1, 1)
    assert list(errors.candidates()) == []


def test_failing_yields_only_subjects_with_failures() -> None:
    """Successes count as requests, but do not make a subject failing."""
    errors = TimedErrorWindow(window=100, step=10, max_subjects=5, overflow=OVERFLOW)
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
def test_counter_counts_subjects_beyond_max_subjects_as_overflow(
    events: list[str], most: int
) -> None:
    """Every event is counted, as its subject or as overflow."""
    counter = EvaluationCounter(max_subjects=most)

    for subject in events:
        counter.add(subject)

    first = list(dict.fromkeys(events))[:most]
    expected = Counter(subject if subject in first else OVERFLOW for subject in events)
    assert dict(counter.items()) == expected
    assert counter.overflowed == expected[OVERFLOW]


def test_cleared_counter_is_empty() -> None:
    """`clear` frees the slots of all subjects."""
    counter = EvaluationCounter(max_subjects=1)
    counter.add("a")

    counter.clear()
    counter.add("b")

    assert list(counter.items()) == [("b", 1)]


def test_counter_adds_several_events_at_once() -> None:
    """`times` is the number of events, also for the overflow."""
    counter = EvaluationCounter(max_subjects=1)

    counter.add("a", 3)
    counter.add("a", 2)
    counter.add("b", 4)

    assert dict(counter.items()) == {"a": 5, OVERFLOW: 4}
    assert counter.overflowed == 4


def test_next_hot_subjects_are_selected_in_bounded_steps() -> None:
    """Each step reads at most 1,000 hot subjects."""
    counts = rolling_window(most=5000)
    counts.set_levels(count=1)
    for number in range(2500):
        counts.add(str(number), 1)

    assert len(list(counts.next_hot())) == 2
    assert len(finish(counts.next_hot())) == 2500


def test_counts_of_an_earlier_time_are_in_its_slot() -> None:
    """They expire as if they had been added in time, or are ignored if the window has passed."""
    counts = rolling_window()
    counts.expire(200)

    finish(counts.add_all({"a": 2 | 7 << 40}, 155.0))
    finish(counts.add_all({"a": 1}, 99.0))

    assert counts_of(counts) == {"a": (2, 7)}
    counts.expire(259)
    assert counts_of(counts) == {"a": (2, 7)}
    counts.expire(260)
    assert counts_of(counts) == {}


def test_window_never_moves_back() -> None:
    """An earlier time changes nothing."""
    counts = rolling_window()
    counts.expire(200)
    counts.add("a", 1)

    counts.expire(100)

    counts.expire(309)
    assert counts_of(counts) == {"a": (1, 0)}
    counts.expire(310)
    assert counts_of(counts) == {}


@given(window=st.floats(1, 1000), at=st.integers(0, 2000), age=st.floats(0, 3000))
def test_window_that_is_not_a_multiple_of_its_slots_covers_one_slot_more_at_most(
    window: float, at: int, age: float
) -> None:
    """A count never expires before the window has passed, nor later than one slot after it."""
    counts = TimedWindow(window=window, step=35, max_subjects=5, overflow=OVERFLOW)
    counts.expire(at)
    counts.add("a", 1)

    counts.expire(at + age)

    if age <= window * (1 - 1e-9):
        assert counts.get("a") == (1, 0)
    if age >= window + 35:
        assert counts.get("a") == (0, 0)


class FreedSubject:
    """A subject that counts how many of its kind are freed."""

    freed = 0

    def __del__(self) -> None:
        FreedSubject.freed += 1


def test_subjects_are_freed_in_bounded_steps_after_a_gap() -> None:
    """After a time without traffic all counts are 0 at once, and a part of them is freed."""
    window: RollingWindow[object] = RollingWindow(
        window=60, step=5, max_subjects=50_000, overflow=OVERFLOW
    )
    for at in (0, 30):
        finish(window.add_all({FreedSubject(): 1 for _ in range(10_000)}, at))
    FreedSubject.freed = 0
    freed: list[int] = []

    for now in range(1000, 2000, 5):
        before = FreedSubject.freed
        window.expire(now)
        assert len(window) == 0
        freed.append(FreedSubject.freed - before)

    assert sum(freed) == 20_000
    assert max(freed) <= 5000
