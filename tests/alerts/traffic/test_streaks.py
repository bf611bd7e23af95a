"""Failures in a row and recent outcomes by subject."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.traffic import Streak, Streaks


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_streak_counts_failures_in_a_row_and_of_the_last_20_outcomes(
    outcomes: list[bool],
) -> None:
    """The counts equal those of a list of all outcomes."""
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
def test_least_recently_used_subject_beyond_max_subjects_is_evicted(
    outcomes: list[tuple[str, bool]], most: int
) -> None:
    """The streaks equal those of a model with the most recently used subjects."""
    streaks = Streaks[str](max_subjects=most)
    model: OrderedDict[str, int] = OrderedDict()

    for subject, failed in outcomes:
        streaks.add(subject, failed=failed)
        in_a_row = model.pop(subject, 0) + 1
        model[subject] = in_a_row if failed else 0
        if len(model) > most:
            model.popitem(last=False)

    failing = {subject: in_a_row for subject, in_a_row in model.items() if in_a_row}
    assert {subject: streak.failures for subject, streak in streaks.failing()} == failing


def test_subject_with_a_success_is_not_failing() -> None:
    """`failing` yields only subjects whose last outcome is a failure."""
    streaks = Streaks[str](max_subjects=5)
    for subject, failed in [("a", True), ("b", True), ("a", False)]:
        streaks.add(subject, failed=failed)

    assert [subject for subject, _ in streaks.failing()] == ["b"]


@given(outcomes=st.lists(st.booleans(), max_size=60))
def test_streak_is_clean_after_20_successes(outcomes: list[bool]) -> None:
    """Another success does not change a clean streak, so it need not be recorded."""
    streak = Streak()

    for failed in outcomes:
        streak.add(failed=failed)

    assert streak.is_clean == (len(outcomes) >= 20 and not any(outcomes[-20:]))


def test_outcome_without_name_keeps_the_last_name() -> None:
    """An empty name does not replace the name of a subject."""
    streaks = Streaks[str](max_subjects=5)

    for name in ("claude", ""):
        streaks.add("c1", failed=True, name=name)

    assert [streak.name for _, streak in streaks.failing()] == ["claude"]


def test_evicted_subjects_are_counted() -> None:
    """`evicted` shows that `max_subjects` is too small."""
    streaks = Streaks[str](max_subjects=2)

    for subject in "abcda":
        streaks.add(subject, failed=False)

    assert streaks.evicted == 3


@given(before=st.integers(1, 60), outcomes=st.lists(st.booleans(), max_size=30))
def test_resumed_streak_continues_the_failures_in_a_row(before: int, outcomes: list[bool]) -> None:
    """A resumed streak equals one whose failures were added one by one."""
    resumed, observed = Streaks[str](max_subjects=5), Streaks[str](max_subjects=5)
    resumed.resume("c1", name="claude", failures=before)
    for failed in [True] * before:
        observed.add("c1", failed=failed, name="claude")

    for failed in outcomes:
        resumed.add("c1", failed=failed)
        observed.add("c1", failed=failed)

    states = [
        [
            (
                subject,
                streak.name,
                streak.failures,
                streak.recent_failures,
                streak.recent_outcomes,
                streak.is_clean,
            )
            for subject, streak in streaks.failing()
        ]
        for streaks in (resumed, observed)
    ]
    assert states[0] == states[1]


def test_streak_with_outcomes_is_not_resumed() -> None:
    """Outcomes since the start of the process replace the stored failures."""
    for failed, failing in ((True, [("c1", 1)]), (False, [])):
        streaks = Streaks[str](max_subjects=5)
        streaks.add("c1", failed=failed)
        streaks.resume("c1", name="claude", failures=10)

        assert [(subject, streak.failures) for subject, streak in streaks.failing()] == failing


def test_resumed_subjects_are_bounded() -> None:
    """Resuming evicts the least recently used subject."""
    streaks = Streaks[str](max_subjects=2)
    for subject in "abc":
        streaks.resume(subject, name="", failures=3)

    assert [subject for subject, _ in streaks.failing()] == ["b", "c"]
    assert streaks.evicted == 1


def test_resume_without_failures_is_not_failing() -> None:
    """A subject resumed with 0 failures is not failing."""
    streaks = Streaks[str](max_subjects=2)
    streaks.resume("a", name="", failures=0)

    assert list(streaks.failing()) == []
