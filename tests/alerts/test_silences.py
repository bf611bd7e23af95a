"""Silences: whom they cover, how long, and which patterns they may have."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding
from tokenpulse_mw.alerts.silences import Silences, check_matchers, compile_pattern
from tokenpulse_mw.alerts.store import Matcher, Silence

from ..support.waiting import at_most
from .findings import finding

ANYTHING = Matcher("alertname", ".*", is_regex=True)


def silence(*matchers: Matcher, identity: str = "s1", ends_at: float = 200) -> Silence:
    """A silence from the second 100 on."""
    return Silence(identity, matchers, 100, ends_at, "ada", "")


def covers(*matchers: Matcher, found: Finding | None = None, at: float = 150) -> bool:
    """Whether a silence of `matchers` covers an alert of the key k1, or another one."""
    silences = Silences()
    silences.add(silence(*matchers))
    return silences.covers(found or finding(), at) is not None


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
def test_a_matcher_asks_for_a_label(matcher: Matcher, covered: bool) -> None:
    """For the whole of it, as text or as a pattern, to be so or not."""
    assert covers(matcher) == covered


def test_all_matchers_of_a_silence_must_match() -> None:
    """Each narrows it."""
    assert covers(ANYTHING, Matcher("subject_id", "k1"))
    assert not covers(ANYTHING, Matcher("subject_id", "k2"))


@pytest.mark.parametrize(("at", "covered"), [(99, False), (100, True), (199, True), (200, False)])
def test_a_silence_lasts_from_its_start_until_just_before_its_end(at: float, covered: bool) -> None:
    """What comes later is told."""
    assert covers(ANYTHING, at=at) == covered


def test_which_silence_covers_an_alert_is_known() -> None:
    """The first one that does."""
    silences = Silences()
    for identity, subject in (("s1", "k2"), ("s2", "k1"), ("s3", "k1")):
        silences.add(silence(Matcher("subject_id", subject), identity=identity))

    assert silences.covers(finding(), 150) == "s2"


def test_a_silence_takes_the_place_of_one_with_its_id() -> None:
    """So it is in the store, too."""
    silences = Silences()
    silences.add(silence(ANYTHING, ends_at=200))
    silences.add(silence(ANYTHING, ends_at=300))

    assert list(silences) == [silence(ANYTHING, ends_at=300)]


def test_a_silence_that_is_removed_covers_nothing() -> None:
    """Removing one that is not there does nothing."""
    silences = Silences()
    silences.add(silence(ANYTHING))
    silences.remove("s1")
    silences.remove("s1")

    assert silences.covers(finding(), 150) is None


def test_silences_that_have_ended_are_forgotten() -> None:
    """Those that last, or have not begun, stay."""
    silences = Silences()
    for number, ends_at in enumerate((150, 151)):
        silences.add(silence(ANYTHING, identity=f"s{number}", ends_at=ends_at))

    silences.expire(150)

    assert [each.id for each in silences] == ["s1"]


def test_there_are_at_most_1000_silences() -> None:
    """Each costs every alert that is told."""
    silences = Silences()
    for number in range(1000):
        silences.check_room()
        silences.add(silence(ANYTHING, identity=f"s{number}"))

    with pytest.raises(
        ValueError,
        match=r"^there are 1000 silences, the maximum: remove one, or match more alerts with each$",
    ):
        silences.check_room()


@pytest.mark.parametrize("number", [0, 21])
def test_a_silence_has_1_to_20_matchers(number: int) -> None:
    """One without any would silence all."""
    with pytest.raises(ValueError, match=f"must have 1 to 20 matchers, got {number}$"):
        check_matchers([ANYTHING] * number)
    assert len(check_matchers([ANYTHING] * 20)) == 20


def test_a_matcher_must_name_a_label() -> None:
    """One that is misspelt would match nothing, or all."""
    with pytest.raises(
        ValueError, match=r"one of alertname, severity, .*, provider, got 'subject'$"
    ):
        check_matchers([Matcher("subject", "key:k1")])


@pytest.mark.parametrize("pattern", ["(", "[", "a**", "a{2}{2}", "(?P<a", "a{99999999999999}"])
def test_a_pattern_must_be_one(pattern: str) -> None:
    """What cannot be read is said at once, not when an alert fires."""
    with pytest.raises(ValueError, match=r"^a pattern must "):
        check_matchers([Matcher("subject_id", pattern, is_regex=True)])


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
def test_a_pattern_of_the_usual_kind_is_taken(pattern: str) -> None:
    """Two repeats, and whatever is no repeat."""
    check_matchers([Matcher("subject_id", pattern, is_regex=True)])


@pytest.mark.parametrize("pattern", ["[[a]", "[a--b]", "[a&&b]", "[a||b]", "[a~~b]"])
def test_a_set_that_python_may_read_otherwise_one_day_is_refused(pattern: str) -> None:
    """What it warns of is no warning to those who set a silence, and must not break it."""
    with pytest.raises(ValueError, match=r"^a pattern must "):
        check_matchers([Matcher("subject_id", pattern, is_regex=True)])


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
def test_a_pattern_whose_time_could_explode_is_refused(pattern: str) -> None:
    """With 200 characters that a tenant has chosen these would take years."""
    with pytest.raises(ValueError, match=r"^a pattern must have at most 200 characters"):
        check_matchers([Matcher("subject_id", pattern, is_regex=True)])


PIECES = ["a", "b", ".", "|", "(", ")", "*", "+", "?", "$", "[ab]", "[^b]", "(a)", "(?:a)"]
PIECES += ["a*", "a+", "a?", "a{2,}", "{1,9}", "(?i)", "\\1", "\\w", "(?:a|b)"]


@given(parts=st.lists(st.sampled_from(PIECES), max_size=25))
def test_a_pattern_that_is_taken_is_matched_in_no_time(parts: list[str]) -> None:
    """Against the longest value, of characters that fit for as long as can be."""
    pattern = "".join(parts)
    try:
        check_matchers([Matcher("subject_id", pattern, is_regex=True)])
    except ValueError:
        assume(False)

    with at_most(2):
        for value in ("a" * 500, "a" * 499 + "c", "ab" * 250, "a" * 5000):
            covers(
                Matcher("subject_id", pattern, is_regex=True),
                found=finding(subject=value),
            )


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
def test_the_slowest_patterns_that_are_taken_take_a_few_milliseconds(pattern: str) -> None:
    """Two repeats can be in 20,000 states, one and ten choices in 2,000, each times its length.

    Five times as long a value takes 25 times as long; with one repeat more it would take a minute.
    """
    compiled = compile_pattern(pattern)

    with at_most(5):
        assert compiled.fullmatch("a" * 1000) is None


def test_only_the_beginning_of_a_long_value_is_matched() -> None:
    """Its first 200 characters: what follows cannot cost anything."""
    found = finding(subject="a" * 200 + "b")

    assert covers(Matcher("subject_id", "a*", is_regex=True), found=found)
    assert not covers(Matcher("subject_id", "a*"), found=found)


def test_a_pattern_matches_across_lines() -> None:
    """A line break in a name is a character like others."""
    assert covers(Matcher("subject_id", "a.b", is_regex=True), found=finding(subject="a\nb"))
