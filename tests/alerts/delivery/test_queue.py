"""What waits for a sink: in order, out-dated news left out, and never too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.delivery.queue import NotificationQueue, QueuedNotification
from tokenpulse_mw.alerts.lifecycle import Transition

from ..store.samples import notification
from .office import make_event, seen

_CHANGES: list[Transition] = ["escalated", "deescalated", "resolved"]


def letter(
    transition: Transition = "fired", key: str = "k1", *, due: float = 0, episode: str = "e1"
) -> QueuedNotification:
    """An event that waits."""
    return QueuedNotification(notification(), make_event(transition, key, episode=episode), due)


def put(letters: NotificationQueue, *coming: QueuedNotification) -> list[AlertEvent]:
    """Let all of these wait, and give what goes for them."""
    return [gone.event for each in coming for gone in letters.put(each)]


def handed_out(letters: NotificationQueue, now: float = 0) -> list[AlertEvent]:
    """All that is due, and taken."""
    taken = []
    while (due := letters.due(now)) is not None:
        letters.done(due)
        taken.append(due.event)
    return taken


def test_nothing_waits_at_first() -> None:
    """There is nothing to hand out, and no time at which there would be."""
    letters = NotificationQueue(most=9)

    assert (len(letters), letters.due(1e9), letters.next_at()) == (0, None, None)
    assert "trouble:key:k1" not in letters


def test_the_letter_that_has_been_due_longest_comes_first() -> None:
    """And none comes before it is due."""
    letters = NotificationQueue(most=9)
    put(letters, letter(key="late", due=20), letter(key="k1", due=5), letter(key="k2", due=5))

    assert letters.next_at() == 5
    assert letters.due(4.9) is None
    assert seen(handed_out(letters, now=10)) == ["fired k1", "fired k2"]
    assert letters.next_at() == 20
    assert (len(letters), "trouble:key:late" in letters) == (1, True)


def test_of_one_alert_only_the_first_is_handed_out() -> None:
    """Its end waits for its beginning, however long that is put off; other alerts do not."""
    letters = NotificationQueue(most=9)
    first = letter()
    put(letters, first, letter("resolved"), letter(key="k2"))
    letters.postpone(first, 60)

    assert seen(handed_out(letters, now=59)) == ["fired k2"]
    assert seen(handed_out(letters, now=60)) == ["fired k1", "resolved k1"]


def test_changes_of_severity_give_way_to_the_newest() -> None:
    """A sink that was away hears how bad it is now, and not of each time it came and went."""
    letters = NotificationQueue(most=99)
    changes: list[Transition] = [*_CHANGES[:2] * 3, "escalated"]
    waiting = [letter(), *map(letter, changes)]
    assert put(letters, *waiting) == []

    gone = put(letters, letter("resolved"))

    assert gone == [each.event for each in waiting[1:-1]]
    assert seen(handed_out(letters)) == ["fired k1", "escalated k1", "resolved k1"]


def test_episodes_that_nobody_heard_of_go_when_they_are_over() -> None:
    """But what a sink may have heard of, it hears the end of; and it hears of what lasts."""
    letters = NotificationQueue(most=99)
    for number in range(50):
        put(letters, letter(episode=f"e{number}"), letter("resolved", episode=f"e{number}"))
    put(letters, letter(episode="last"))

    told_of = [(each.transition, each.alert_id) for each in handed_out(letters)]

    assert told_of[:2] == [("fired", "k1-e0"), ("resolved", "k1-e0")]
    assert told_of[-1] == ("fired", "k1-last")
    assert len(told_of) <= 9


def test_beyond_the_bound_the_alert_that_has_waited_longest_goes() -> None:
    """All of it, so that no end comes without its beginning."""
    letters = NotificationQueue(most=3)
    put(letters, letter(), letter(key="k2"), letter("resolved"))

    gone = put(letters, letter(key="k3"))

    assert seen(gone) == ["fired k1", "resolved k1"]
    assert len(letters) == 2
    assert seen(handed_out(letters)) == ["fired k2", "fired k3"]


def test_a_letter_that_had_to_go_on_its_way_does_not_come_back() -> None:
    """Whether it is taken or not: what waits now is not touched by it."""
    letters = NotificationQueue(most=1)
    under_way = letter()
    put(letters, under_way, letter(key="k2"))

    letters.done(under_way)
    letters.postpone(under_way, 0)
    put(letters, letter("resolved"))
    letters.done(under_way)

    assert seen(handed_out(letters)) == ["resolved k1"]


def test_a_letter_waits_behind_its_own_alert_though_that_is_the_oldest() -> None:
    """An alert never drives itself out."""
    letters = NotificationQueue(most=2)

    assert put(letters, letter(), letter("escalated"), letter("resolved")) == []
    assert seen(handed_out(letters)) == ["fired k1", "escalated k1", "resolved k1"]


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["fired", "escalated", "deescalated", "reminded", "resolved"]),
        st.sampled_from(["k1", "k2", "k3"]),
        st.sampled_from(["e1", "e2", "e3"]),
    ),
    max_size=60,
)


@given(_EVENTS, st.integers(1, 40))
def test_what_comes_in_goes_out_once_and_in_order(
    coming: list[tuple[Transition, str, str]], most: int
) -> None:
    """Handed out or gone, each just once; of each alert in its order."""
    letters = NotificationQueue(most=most)
    waiting = [letter(what, key, episode=episode) for what, key, episode in coming]
    gone = put(letters, *waiting)
    left = len(letters)

    out = handed_out(letters)

    assert sorted(map(id, out + gone)) == sorted(id(each.event) for each in waiting)
    assert (len(out), len(letters), letters.next_at()) == (left, 0, None)
    order = {id(each.event): number for number, each in enumerate(waiting)}
    for key in ("k1", "k2", "k3"):
        mine = [order[id(each)] for each in out if each.finding.subject.id == key]
        assert mine == sorted(mine)


@given(
    st.lists(st.tuples(st.sampled_from(["k1", "k2", "k3"]), st.sampled_from(_CHANGES))),
    st.integers(1, 40),
)
def test_what_waits_is_bounded(changes: list[tuple[str, Transition]], most: int) -> None:
    """However alerts come and go, there are hardly more: eight of the one that is the oldest."""
    letters = NotificationQueue(most=most)
    episodes = dict.fromkeys(["k1", "k2", "k3"], 0)
    begun: set[str] = set()

    for key, change in changes:
        what: Transition = change if key in begun else "fired"
        put(letters, letter(what, key, episode=f"e{episodes[key]}"))
        begun ^= {key} if what in ("fired", "resolved") else set()
        episodes[key] += what == "resolved"

        assert len(letters) <= most + 8
