"""Failures in a row and recent outcomes by subject, merged over processes."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.traffic import Outcomes, Streak, Streaks

MICROSECONDS = count(1)


def outcome(*, failed: bool, name: str = "", time: int | None = None) -> Outcomes:
    """Return one outcome, later than those before."""
    time = next(MICROSECONDS) if time is None else time
    if failed:
        return Outcomes(name=name, failed_at=[time])
    return Outcomes(name=name, successes=1, last_success=time)


def merged(parts: list[Outcomes]) -> Streak:
    """Return the streak of outcomes merged in this order."""
    streak = Streak()
    for part in parts:
        streak.merge(part)
    return streak


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_streak_counts_failures_in_a_row_and_of_the_last_20_outcomes(
    outcomes: list[bool],
) -> None:
    """The counts equal those of a list of all outcomes."""
    streak = merged([outcome(failed=failed) for failed in outcomes])

    in_a_row = outcomes[::-1].index(False) if False in outcomes else len(outcomes)
    assert (streak.failures, streak.recent_outcomes) == (in_a_row, len(outcomes[-20:]))
    assert streak.recent_failures == sum(outcomes[-20:])


TIMED = st.lists(
    st.tuples(st.booleans(), st.integers(1, 500)), max_size=60, unique_by=lambda entry: entry[1]
)


@given(outcomes=TIMED, data=st.data())
def test_order_of_merging_does_not_change_the_failures_in_a_row(
    outcomes: list[tuple[bool, int]], data: st.DataObject
) -> None:
    """A success ends all failures before it, whichever process has sent it first."""
    parts = [outcome(failed=failed, time=time) for failed, time in outcomes]

    streak = merged(data.draw(st.permutations(parts)))

    last = max((time for failed, time in outcomes if not failed), default=0)
    assert streak.failures == sum(failed and time > last for failed, time in outcomes)
    assert streak.last_success == last


@given(outcomes=TIMED, processes=st.integers(1, 8), data=st.data())
def test_outcomes_merged_by_process_equal_those_of_one_process(
    outcomes: list[tuple[bool, int]], processes: int, data: st.DataObject
) -> None:
    """The numbers of successes, ended failures and failures in a row are exact."""
    parts = [Outcomes() for _ in range(processes)]
    whole = Outcomes()
    for failed, time in sorted(outcomes, key=lambda entry: entry[1]):
        part = parts[data.draw(st.integers(0, processes - 1))]
        for one in (part, whole):
            one.merge(outcome(failed=failed, time=time))

    result = Outcomes()
    for part in data.draw(st.permutations(parts)):
        result.merge(part)

    assert result == whole


@given(before=st.integers(0, 5), failures=st.integers(0, 200), sizes=st.integers(1, 80))
def test_failures_beyond_the_known_times_still_count(
    before: int, failures: int, sizes: int
) -> None:
    """Only the times of the newest 64 failures are kept; the number of all stays exact."""
    parts: list[Outcomes] = [Outcomes()]
    for number in range(before + failures):
        if number == before:
            parts[-1].succeed(number + 1)
        if not number % sizes:
            parts.append(Outcomes())
        parts[-1].fail(number + 2)

    streak = merged(parts)

    assert streak.failures == failures + (before if not failures else 0)
    assert len(streak.failed_at) == min(streak.failures, 64)


def test_success_between_failures_that_are_not_known_by_time_ends_none_of_them() -> None:
    """The count is never too low: a late success ends the older failures if none is newer."""
    part = Outcomes()
    for time in range(1, 101):
        part.fail(time)

    assert merged([part, outcome(failed=False, time=20)]).failures == 100
    assert merged([part, outcome(failed=False, time=40)]).failures == 60
    assert merged([part, outcome(failed=False, time=100)]).failures == 0


def test_success_ends_the_failures_of_its_process() -> None:
    """Failures before a success count among the recent outcomes only."""
    part = Outcomes()
    for time in range(1, 101):
        part.fail(time)

    part.succeed(101)
    part.succeed(102)
    part.fail(103)

    assert part == Outcomes(ended=100, last_success=102, failed_at=[103])


@given(
    outcomes=st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60),
    most=st.integers(1, 6),
)
def test_least_recently_used_subject_beyond_max_subjects_is_evicted(
    outcomes: list[tuple[str, bool]], most: int
) -> None:
    """The streaks equal those of a model with the most recently used subjects."""
    streaks = Streaks[str](max_subjects=most)
    model: OrderedDict[str, int] = OrderedDict()

    for subject, failed in outcomes:
        streaks.add(subject, outcome(failed=failed))
        in_a_row = model.pop(subject, 0) + 1
        model[subject] = in_a_row if failed else 0
        if len(model) > most:
            model.popitem(last=False)

    failing = {subject: in_a_row for subject, in_a_row in model.items() if in_a_row}
    assert {subject: streak.failures for subject, streak in streaks.failing()} == failing
    assert [subject for subject, _ in streaks.items()] == list(model)


def test_subject_with_a_success_is_not_failing() -> None:
    """`failing` yields only subjects whose last outcome is a failure."""
    streaks = Streaks[str](max_subjects=5)
    for subject, failed in [("a", True), ("b", True), ("a", False)]:
        streaks.add(subject, outcome(failed=failed))

    assert [subject for subject, _ in streaks.failing()] == ["b"]


def test_outcome_without_name_keeps_the_last_name() -> None:
    """An empty name does not replace the name of a subject."""
    streaks = Streaks[str](max_subjects=5)

    for name in ("openai", "claude", ""):
        streaks.add("c1", outcome(failed=True, name=name))

    assert [streak.name for _, streak in streaks.failing()] == ["claude"]


def test_evicted_subjects_are_counted() -> None:
    """`evicted` shows that `max_subjects` is too small."""
    streaks = Streaks[str](max_subjects=2)

    for subject in "abcda":
        streaks.add(subject, outcome(failed=False))

    assert streaks.evicted == 3


@given(before=st.lists(st.booleans(), max_size=90), outcomes=st.lists(st.booleans(), max_size=30))
def test_restored_streak_continues_as_the_stored_one(
    before: list[bool], outcomes: list[bool]
) -> None:
    """A streak that was encoded and decoded equals one of the same process."""
    streaks, restored = Streaks[str](max_subjects=2), Streaks[str](max_subjects=2)
    for failed in before:
        streaks.add("c1", outcome(failed=failed, name="claude"))
    for subject, streak in streaks.items():
        payload = msgspec.msgpack.encode(streak)
        restored.restore(subject, msgspec.msgpack.decode(payload, type=Streak))

    for failed in outcomes:
        part = outcome(failed=failed)
        for copy in (streaks, restored):
            copy.add("c1", part)

    assert list(restored.items()) == list(streaks.items())
    assert list(restored.failing()) == list(streaks.failing())


def test_moved_outcomes_keep_their_order() -> None:
    """Times are never negative, and an unknown time stays unknown."""
    outcomes = Outcomes(last_success=5_000_000, failed_at=[5_000_001, 7_000_000])
    failures = Outcomes(failed_at=[3_000_000])

    for moved in (outcomes, failures):
        moved.move(-4_000_000)

    assert outcomes == Outcomes(last_success=1_000_000, failed_at=[1_000_001, 3_000_000])
    assert failures == Outcomes(failed_at=[0])


def test_outcomes_are_moved_before_a_time_only_if_they_are_later() -> None:
    """The last outcome is then at that time."""
    outcomes = Outcomes(last_success=5_000_000, failed_at=[7_000_000])

    outcomes.move_before(7)
    assert outcomes == Outcomes(last_success=5_000_000, failed_at=[7_000_000])
    outcomes.move_before(6)

    assert outcomes == Outcomes(last_success=4_000_000, failed_at=[6_000_000])
