"""Order and bounds of the queue of a sink."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.delivery.queue import NotificationQueue, QueuedNotification
from tokenpulse_mw.alerts.lifecycle import Transition

from ..store.samples import notification
from .harness import make_event, summaries

_CHANGES: list[Transition] = ["escalated", "deescalated", "resolved"]


def queued(
    transition: Transition = "fired", key: str = "k1", *, due: float = 0, episode: str = "e1"
) -> QueuedNotification:
    """Return a notification to queue."""
    return QueuedNotification(notification(), make_event(transition, key, episode=episode), due)


def put(queue: NotificationQueue, *new: QueuedNotification) -> list[AlertEvent]:
    """Queue notifications and return the events of those that were dropped."""
    return [dropped.event for item in new for dropped in queue.put(item)]


def deliver_due(queue: NotificationQueue, now: float = 0) -> list[AlertEvent]:
    """Remove everything that is due and return the events."""
    events = []
    while (due := queue.next_due(now)) is not None:
        queue.remove(due)
        events.append(due.event)
    return events


def test_new_queue_is_empty() -> None:
    """A new queue has nothing due, now or later."""
    queue = NotificationQueue(max_size=9)

    assert (len(queue), queue.next_due(1e9), queue.next_due_at()) == (0, None, None)
    assert "trouble:key:k1" not in queue


def test_notifications_are_due_in_the_order_of_their_times() -> None:
    """The notification with the earliest time is due first, and none is due before its time."""
    queue = NotificationQueue(max_size=9)
    put(queue, queued(key="late", due=20), queued(key="k1", due=5), queued(key="k2", due=5))

    assert queue.next_due_at() == 5
    assert queue.next_due(4.9) is None
    assert summaries(deliver_due(queue, now=10)) == ["fired k1", "fired k2"]
    assert queue.next_due_at() == 20
    assert (len(queue), "trouble:key:late" in queue) == (1, True)


def test_only_the_first_notification_of_an_alert_is_due() -> None:
    """The end of an alert waits while its beginning is postponed; other alerts do not."""
    queue = NotificationQueue(max_size=9)
    first = queued()
    put(queue, first, queued("resolved"), queued(key="k2"))
    queue.postpone(first, 60)

    assert summaries(deliver_due(queue, now=59)) == ["fired k2"]
    assert summaries(deliver_due(queue, now=60)) == ["fired k1", "resolved k1"]


def test_outdated_changes_of_severity_are_dropped() -> None:
    """If many notifications of an alert wait, only the newest change of severity is sent."""
    queue = NotificationQueue(max_size=99)
    changes: list[Transition] = [*_CHANGES[:2] * 3, "escalated"]
    waiting = [queued(), *map(queued, changes)]
    assert put(queue, *waiting) == []

    dropped = put(queue, queued("resolved"))

    assert dropped == [item.event for item in waiting[1:-1]]
    assert summaries(deliver_due(queue)) == ["fired k1", "escalated k1", "resolved k1"]


def test_episodes_that_ended_before_their_delivery_are_dropped() -> None:
    """Only the first episode, which may have been attempted, and the last one are sent."""
    queue = NotificationQueue(max_size=99)
    for number in range(50):
        put(queue, queued(episode=f"e{number}"), queued("resolved", episode=f"e{number}"))
    put(queue, queued(episode="last"))

    sent = [(event.transition, event.alert_id) for event in deliver_due(queue)]

    assert sent[:2] == [("fired", "k1-e0"), ("resolved", "k1-e0")]
    assert sent[-1] == ("fired", "k1-last")
    assert len(sent) <= 9


def test_full_queue_drops_the_alert_that_waited_longest() -> None:
    """All its notifications are dropped, so that no end is sent without its beginning."""
    queue = NotificationQueue(max_size=3)
    put(queue, queued(), queued(key="k2"), queued("resolved"))

    dropped = put(queue, queued(key="k3"))

    assert summaries(dropped) == ["fired k1", "resolved k1"]
    assert len(queue) == 2
    assert summaries(deliver_due(queue)) == ["fired k2", "fired k3"]


def test_notification_dropped_during_its_attempt_is_not_queued_again() -> None:
    """The outcome of a dropped notification does not change those queued after it."""
    queue = NotificationQueue(max_size=1)
    attempted = queued()
    put(queue, attempted, queued(key="k2"))

    queue.remove(attempted)
    queue.postpone(attempted, 0)
    put(queue, queued("resolved"))
    queue.remove(attempted)

    assert summaries(deliver_due(queue)) == ["resolved k1"]


def test_full_queue_does_not_drop_the_alert_of_the_new_notification() -> None:
    """If the oldest alert is that of the new notification, nothing is dropped."""
    queue = NotificationQueue(max_size=2)

    assert put(queue, queued(), queued("escalated"), queued("resolved")) == []
    assert summaries(deliver_due(queue)) == ["fired k1", "escalated k1", "resolved k1"]


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["fired", "escalated", "deescalated", "reminded", "resolved"]),
        st.sampled_from(["k1", "k2", "k3"]),
        st.sampled_from(["e1", "e2", "e3"]),
    ),
    max_size=60,
)


@given(_EVENTS, st.integers(1, 40))
def test_notification_is_either_due_or_dropped_exactly_once(
    events: list[tuple[Transition, str, str]], max_size: int
) -> None:
    """Every notification is due or dropped once, and those of an alert are due in order."""
    queue = NotificationQueue(max_size=max_size)
    new = [queued(transition, key, episode=episode) for transition, key, episode in events]
    dropped = put(queue, *new)
    size = len(queue)

    delivered = deliver_due(queue)

    assert sorted(map(id, delivered + dropped)) == sorted(id(item.event) for item in new)
    assert (len(delivered), len(queue), queue.next_due_at()) == (size, 0, None)
    order = {id(item.event): number for number, item in enumerate(new)}
    for key in ("k1", "k2", "k3"):
        of_key = [order[id(event)] for event in delivered if event.finding.subject.id == key]
        assert of_key == sorted(of_key)


@given(
    st.lists(st.tuples(st.sampled_from(["k1", "k2", "k3"]), st.sampled_from(_CHANGES))),
    st.integers(1, 40),
)
def test_size_is_bounded(changes: list[tuple[str, Transition]], max_size: int) -> None:
    """The queue exceeds its bound by at most the eight notifications of the oldest alert."""
    queue = NotificationQueue(max_size=max_size)
    episodes = dict.fromkeys(["k1", "k2", "k3"], 0)
    firing: set[str] = set()

    for key, change in changes:
        transition: Transition = change if key in firing else "fired"
        put(queue, queued(transition, key, episode=f"e{episodes[key]}"))
        firing ^= {key} if transition in ("fired", "resolved") else set()
        episodes[key] += transition == "resolved"

        assert len(queue) <= max_size + 8
