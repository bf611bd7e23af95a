"""Silences: matching, times, limits, and the patterns that matchers may have."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding
from tokenpulse_mw.alerts.silences import Silences, check_matchers, compile_pattern
from tokenpulse_mw.alerts.store import Matcher, Silence

from ..support.waiting import max_cpu_time
from .findings import finding

ANYTHING = Matcher("alertname", ".*", is_regex=True)


def key_pattern(pattern: str) -> Matcher:
    """Return a matcher of keys."""
    return Matcher("subject_id", pattern, is_regex=True)


def silence(
    *matchers: Matcher, identity: str = "s1", starts_at: float = 100, ends_at: float = 200
) -> Silence:
    """Return a silence from 100 to 200 seconds."""
    return Silence(identity, matchers, starts_at, ends_at, "ada", "")


def silences_of(*silences: Silence) -> Silences:
    """Return a collection of silences."""
    collection = Silences()
    for item in silences:
        collection.add(item)
    return collection


def covers(*matchers: Matcher, of: Finding | None = None, at: float = 150) -> bool:
    """Return True if a silence covers an alert, by default one of the key k1."""
    return silences_of(silence(*matchers)).covers(of or finding(), at) is not None


@pytest.mark.parametrize(
    ("matcher", "covered"),
    [
        (Matcher("subject_id", "k1"), True),
        (Matcher("subject_id", "k"), False),
        (Matcher("subject_id", "k1", is_equal=False), False),
        (Matcher("subject_id", "k2", is_equal=False), True),
        (Matcher("subject_id", "k.*", is_regex=True), True),
        (Matcher("subject_id", "k", is_regex=True), False),
        (Matcher("subject_id", "k.*", is_regex=True, is_equal=False), False),
        (Matcher("subject_id", "x.*", is_regex=True, is_equal=False), True),
        (Matcher("subject_id", ".*"), False),
        (Matcher("metric", ""), True),
        (Matcher("severity", "warning|critical", is_regex=True), True),
        (Matcher("severity", "critical"), False),
        (Matcher("alertname", "trouble"), True),
        (Matcher("subject_kind", "key"), True),
        (Matcher("provider", "claude"), False),
    ],
)
def test_matcher_compares_the_whole_label(matcher: Matcher, covered: bool) -> None:
    """The value is text or a pattern, and `is_equal=False` negates the result."""
    assert covers(matcher) == covered


def test_all_matchers_of_a_silence_must_match() -> None:
    """A further matcher only narrows a silence."""
    assert covers(ANYTHING, Matcher("subject_id", "k1"))
    assert not covers(ANYTHING, Matcher("subject_id", "k2"))


@pytest.mark.parametrize(("at", "covered"), [(99, False), (100, True), (199, True), (200, False)])
def test_silence_is_in_force_from_its_start_until_before_its_end(at: float, covered: bool) -> None:
    """The start is included, and the end is not."""
    assert covers(ANYTHING, at=at) == covered


def test_covers_returns_the_id_of_the_first_matching_silence() -> None:
    """Silences are compared in their order."""
    subjects = {"s1": "k2", "s2": "k1", "s3": "k1"}
    silences = silences_of(
        *(
            silence(Matcher("subject_id", subject), identity=identity)
            for identity, subject in subjects.items()
        )
    )

    assert silences.covers(finding(), 150) == "s2"


def test_added_silence_replaces_one_of_the_same_id() -> None:
    """The store does the same."""
    silences = silences_of(silence(ANYTHING, ends_at=200), silence(ANYTHING, ends_at=300))

    assert list(silences) == [silence(ANYTHING, ends_at=300)]


def test_removed_silence_covers_nothing() -> None:
    """Removing it again does nothing."""
    silences = silences_of(silence(ANYTHING))
    silences.remove("s1")
    silences.remove("s1")

    assert silences.covers(finding(), 150) is None


def test_expire_removes_silences_that_have_ended() -> None:
    """A silence that ends later stays."""
    silences = silences_of(
        silence(ANYTHING, identity="s0", ends_at=150), silence(ANYTHING, identity="s1", ends_at=151)
    )

    silences.expire(150)

    assert [item.id for item in silences] == ["s1"]


def test_at_most_1000_silences_have_room() -> None:
    """The error says how to make room."""
    silences = Silences()
    for number in range(1000):
        silences.check_capacity()
        silences.add(silence(ANYTHING, identity=f"s{number}"))

    with pytest.raises(
        ValueError,
        match=r"^silences must be at most 1000: remove one, or create silences that match more ",
    ):
        silences.check_capacity()


def test_alert_is_compared_with_each_silence_once() -> None:
    """Later evaluations compare it only with new silences."""
    silences = silences_of(
        *(silence(key_pattern(f"x{number}.*"), identity=f"s{number}") for number in range(100))
    )

    for _ in range(3):
        assert silences.covers(finding(), 150) is None
    assert silences.compared == 100
    silences.add(silence(key_pattern("k.*"), identity="new"))
    assert silences.covers(finding(), 150) == "new"
    assert silences.compared == 101


def test_silence_of_one_value_is_compared_with_its_alerts_only() -> None:
    """Silences are indexed by a label value that they require."""
    silences = silences_of(
        *(
            silence(Matcher("subject_id", f"k{number}"), identity=f"s{number}")
            for number in range(1000)
        )
    )

    covering = [silences.covers(finding(subject=f"k{number}"), 150) for number in range(1000)]

    assert covering == [f"s{number}" for number in range(1000)]
    assert silences.compared == 1000


def test_silences_match_correctly_after_many_changes() -> None:
    """After enough changes all silences are numbered again."""
    silences = silences_of(silence(Matcher("subject_id", "k9"), identity="first"))
    for number in range(2500):
        alert = finding(subject=f"k{number % 7}")
        silences.add(silence(Matcher("subject_id", alert.subject.id), identity=f"s{number}"))
        assert silences.covers(alert, 150) == f"s{number}"
        assert silences.covers(finding(subject="k9"), 150) == "first"
        silences.remove(f"s{number}")
        assert silences.covers(alert, 150) is None


def test_results_are_cached_for_a_bounded_number_of_label_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest label set is evicted, and compared again when it returns."""
    monkeypatch.setattr("tokenpulse_mw.alerts.silences._MAX_LABEL_SETS", 2)
    silences = silences_of(silence(key_pattern("k.*")))

    for subject in ("k1", "k2", "k3", "k1"):
        assert silences.covers(finding(subject=subject), 150) == "s1"
    assert silences.compared == 4


def test_pending_silence_is_compared_before_its_start() -> None:
    """The comparison is done once, and the times are checked each time."""
    silences = silences_of(
        silence(Matcher("subject_id", "k1"), identity="later", starts_at=100, ends_at=1000)
    )

    assert [silences.covers(finding(), at) for at in (99, 100, 999, 1000)] == [
        None,
        "later",
        "later",
        None,
    ]
    assert silences.compared == 1


def test_slow_patterns_pause_between_comparisons() -> None:
    """A step has at most 100,000 steps of matching, or one comparison."""
    pattern = key_pattern("a*a*" + "a" * 59 + "b")
    silences = silences_of(*(silence(pattern, identity=f"s{number}") for number in range(20)))

    pauses = sum(1 for _ in silences.is_silenced(finding(subject="a" * 200), 150))

    assert pauses >= 19


@pytest.mark.parametrize("number", [0, 21])
def test_silence_has_1_to_20_matchers(number: int) -> None:
    """A silence without matchers would cover every alert."""
    with pytest.raises(ValueError, match=f"must have 1 to 20 matchers, got {number}$"):
        check_matchers([ANYTHING] * number)
    assert len(check_matchers([ANYTHING] * 20)) == 20


def test_matcher_of_an_unknown_label_is_rejected() -> None:
    """The error lists the labels."""
    with pytest.raises(
        ValueError, match=r"one of alertname, severity, .*, provider, got 'subject'$"
    ):
        check_matchers([Matcher("subject", "key:k1")])


@pytest.mark.parametrize(
    "pattern",
    [
        "claude|gemini",
        "k-[0-9]+",
        "team-.*-prod.*",
        r"k\*\+\{\}",
        "[*+{}?()]+x",
        "[]*]*",
        "[^]*]*",
        "(a|b)c",
        "k.{3}",
        "k[0-9]{1,4}x{,2}",
        "a" * 200,
        "team-(?:red|green|blue)-.*",
        "(?:" + "|".join("abcdefghij") + ").*",
        "|".join(["k"] * 100),
        ".*" + "x" * 198,
        ".*.*" + "x" * 60,
    ],
)
def test_usual_pattern_is_accepted(pattern: str) -> None:
    """A pattern may have up to two repeats, or a group with choices."""
    check_matchers([key_pattern(pattern)])


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[",
        "a**",
        "a{2}{2}",
        "(?P<a",
        "a{99999999999999}",
        # Python may read these as nested sets in the future.
        "[[a]",
        "[a--b]",
        "[a&&b]",
        "[a||b]",
        "[a~~b]",
    ],
)
def test_invalid_pattern_is_rejected(pattern: str) -> None:
    """The error is raised when the silence is created, not when an alert fires."""
    with pytest.raises(ValueError, match=r"^a pattern must "):
        check_matchers([key_pattern(pattern)])


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * 501,
        ".*.*.*",
        "a*b+c{2}",
        "(a+)+b",
        "(a*)*",
        "(a|aa){9}b",
        "(?:a+)*b",
        "(?x)(a+) +b",
        "(?x)(a+)#\n+b",
        "(?#[)(a+)+b(?#])",
        "(a|aa)" * 60 + "b",
        "(?:a|a)" * 60 + "b",
        "a?" * 100 + "a" * 100,
        "a??" * 100 + "a" * 100,
        ".*.*" + "x" * 61,
        ".*.*(?:" + "|" * 188 + ")x",
        ".*.*(a|b)",
        "(?:" + "|".join("abcdefghijk") + ")",
        "(|a)",
        "(?:|a)",
        "(a|)",
        "(a||b)",
        "((a)|)b",
    ],
)
def test_pattern_with_exponential_time_is_rejected(pattern: str) -> None:
    """A tenant could choose 200 characters that such a pattern matches for years."""
    with pytest.raises(ValueError, match=r"^a pattern must have at most 200 characters"):
        check_matchers([key_pattern(pattern)])


PIECES = ["a", "b", ".", "|", "(", ")", "*", "+", "?", "$", "[ab]", "[^b]", "(a)", "(?:a)"]
PIECES += ["a*", "a+", "a?", "a{2,}", "{1,9}", "(?i)", "\\1", "\\w", "(?:a|b)"]


@given(parts=st.lists(st.sampled_from(PIECES), max_size=25))
def test_accepted_pattern_matches_in_bounded_time(parts: list[str]) -> None:
    """The values are long and match the pattern for as many characters as possible."""
    matcher = key_pattern("".join(parts))
    try:
        check_matchers([matcher])
    except ValueError:
        assume(False)

    with max_cpu_time(2):
        for value in ("a" * 500, "a" * 499 + "c", "ab" * 250, "a" * 5000):
            covers(matcher, of=finding(subject=value))


@pytest.mark.parametrize(
    "pattern",
    [
        ".*.*" + r"\B" * 29 + "x",
        r"\w*\w*" + r"\B" * 28 + "x",
        "[ab]*a*" + "()" * 28 + "x",
        ".*a*" + "(a)" * 19 + "x",
        "a*a*" + "a" * 59 + "b",
        ".*(?:" + "|".join([r"\B"] * 10) + ")" + r"\B" * 78 + "x",
        ".*(?:" + "|".join("a" * 10) + ")" + "()" * 80 + "x",
        "(?:" + "|".join("a" * 10) + ").*" + "()" * 80 + "x",
    ],
)
def test_slowest_accepted_patterns_take_milliseconds(pattern: str) -> None:
    """Two repeats have 20,000 states, one repeat and ten choices 2,000, each times the length.

    The value is five times as long as values may be, which takes 25 times as long. A further
    repeat would take a minute.
    """
    compiled = compile_pattern(pattern)

    with max_cpu_time(5):
        assert compiled.fullmatch("a" * 1000) is None


def test_pattern_matches_the_first_200_characters_of_a_value() -> None:
    """Text is compared with the whole value."""
    long_value = finding(subject="a" * 200 + "b")

    assert covers(key_pattern("a*"), of=long_value)
    assert not covers(Matcher("subject_id", "a*"), of=long_value)


def test_dot_of_a_pattern_matches_a_line_break() -> None:
    """A line break in a name is an ordinary character."""
    assert covers(key_pattern("a.b"), of=finding(subject="a\nb"))


def test_replaced_silences_are_exactly_the_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    """An invalid one is left out, and logged once until it is gone."""
    kept = silence(Matcher("subject_id", "k1"), identity="kept")
    removed = silence(Matcher("subject_id", "k2"), identity="removed")
    invalid = silence(Matcher("colour", "red"), identity="invalid")
    collection = silences_of(kept, removed)

    for new in ([kept, invalid], [invalid, kept], [kept], [invalid]):
        collection.replace(new)

    assert list(collection) == []
    assert [message.partition(" error")[0] for message in caplog.messages] == [
        "stored silence is invalid: silence=invalid"
    ] * 2
