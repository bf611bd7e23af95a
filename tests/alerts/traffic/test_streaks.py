"""Streaks: how often in a row a subject failed, and how it has fared lately."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.traffic import Streak, Streaks


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_a_streak_knows_the_failures_in_a_row_and_the_last_twenty_outcomes(
    outcomes: list[bool],
) -> None:
    """It is the same as looking the outcomes up in a list."""
    streak = Streak()

    for failed in outcomes:
        streak.add(failed=failed)

    in_a_row = outcomes[::-1].index(False) if False in outcomes else len(outcomes)
    assert (streak.failures, streak.recent_outcomes) == (in_a_row, len(outcomes[-20:]))
    assert streak.recent_failures == sum(outcomes[-20:])


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


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_a_streak_is_clean_where_one_more_success_changes_nothing(outcomes: list[bool]) -> None:
    """After twenty successes the twenty-first need not be noted."""
    streak = Streak()

    for failed in outcomes:
        streak.add(failed=failed)

    assert streak.is_clean == (len(outcomes) >= 20 and not any(outcomes[-20:]))


def test_a_subject_is_called_what_it_was_last_called() -> None:
    """An outcome that does not tell the name leaves it as it was."""
    streaks = Streaks[str](max_subjects=5)

    for name in ("claude", ""):
        streaks.add("c1", failed=True, name=name)

    assert [streak.name for _, streak in streaks.failing()] == ["claude"]


def test_those_that_had_to_go_are_counted() -> None:
    """A bound that is too small can be seen."""
    streaks = Streaks[str](max_subjects=2)

    for subject in "abcda":
        streaks.add(subject, failed=False)

    assert streaks.evicted == 3


@given(before=st.integers(1, 60), outcomes=st.lists(st.booleans(), max_size=30))
def test_failures_of_before_a_restart_are_counted_on(before: int, outcomes: list[bool]) -> None:
    """It is as if they had been seen one by one, under the name of then."""
    resumed, whole = Streaks[str](max_subjects=5), Streaks[str](max_subjects=5)
    resumed.resume("c1", name="claude", failures=before)
    for failed in [True] * before:
        whole.add("c1", failed=failed, name="claude")

    for failed in outcomes:
        resumed.add("c1", failed=failed)
        whole.add("c1", failed=failed)

    states = [
        [
            (
                subject,
                each.name,
                each.failures,
                each.recent_failures,
                each.recent_outcomes,
                each.is_clean,
            )
            for subject, each in streaks.failing()
        ]
        for streaks in (resumed, whole)
    ]
    assert states[0] == states[1]


def test_what_was_seen_since_is_better_known_than_what_was_before() -> None:
    """An outcome that came in before the store could be read counts alone."""
    for failed, failing in ((True, [("c1", 1)]), (False, [])):
        streaks = Streaks[str](max_subjects=5)
        streaks.add("c1", failed=failed)
        streaks.resume("c1", name="claude", failures=10)

        assert [(subject, each.failures) for subject, each in streaks.failing()] == failing


def test_what_is_resumed_is_bounded_too() -> None:
    """The subject unheard of longest goes for it."""
    streaks = Streaks[str](max_subjects=2)
    for subject in "abc":
        streaks.resume(subject, name="", failures=3)

    assert [subject for subject, _ in streaks.failing()] == ["b", "c"]
    assert streaks.evicted == 1


def test_no_failures_are_no_streak() -> None:
    """Nothing is taken up where there was nothing."""
    streaks = Streaks[str](max_subjects=2)
    streaks.resume("a", name="", failures=0)

    assert list(streaks.failing()) == []
