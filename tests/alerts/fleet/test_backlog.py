from __future__ import annotations

from collections import Counter

from tokenpulse_mw.alerts.fleet.backlog import Backlog
from tokenpulse_mw.alerts.store.records import Batch

from .model import Traffic, decode, encode


def bucket(slot: int, *, shares: int = 1) -> Traffic:
    """Return a bucket with one request."""
    return Traffic(slot, Counter([f"r{slot}"]), shares)


def backlog_of(*slots: int, max_buckets: int = 60, max_hours: int = 25) -> Backlog[Traffic]:
    """Return a backlog with a bucket in each slot."""
    backlog = Backlog[Traffic](max_buckets=max_buckets, max_hours=max_hours, max_batches=3)
    for slot in slots:
        backlog.add(bucket(slot))
    return backlog


def send(backlog: Backlog[Traffic]) -> tuple[Batch, ...]:
    """Return the batches of the next heartbeat."""
    return backlog.batches("a", encode, protocol=1)


def test_buckets_are_numbered_from_one() -> None:
    """Each bucket is one batch, and numbers continue after a heartbeat that succeeded."""
    backlog = backlog_of(7, 8)

    assert send(backlog) == (
        Batch("a", 1, 7, 1, encode(bucket(7), 1)),
        Batch("a", 2, 8, 1, encode(bucket(8), 1)),
    )
    assert backlog.pushed == 0

    backlog.stored()
    backlog.add(bucket(9))

    assert backlog.pushed == 2
    assert [batch.number for batch in send(backlog)] == [3]


def test_batches_whose_outcome_is_unknown_are_sent_again_unchanged() -> None:
    """Newer buckets wait behind batches that were sent, so a number is never used twice."""
    backlog = backlog_of(7)
    sent = send(backlog)
    backlog.add(bucket(8))

    assert send(backlog) == sent
    assert backlog.through(8) == 7

    backlog.stored()

    assert [batch.slot for batch in send(backlog)] == [8]
    assert backlog.through(8) == 8


def test_empty_backlog_sends_nothing() -> None:
    """A heartbeat without traffic changes no number."""
    backlog = backlog_of()

    assert send(backlog) == ()

    backlog.stored()

    assert backlog.pushed == 0
    assert backlog.through(5) == 5
    assert backlog.behind(100.0) == 0


def test_heartbeat_sends_a_bounded_number_of_batches() -> None:
    """A long backlog is sent in several heartbeats, the oldest traffic first."""
    backlog = backlog_of(*range(7))

    slots = []
    while batches := send(backlog):
        slots.append([batch.slot for batch in batches])
        backlog.stored()

    assert slots == [[0, 1, 2], [3, 4, 5], [6]]


def test_old_buckets_are_merged_by_hour() -> None:
    """Beyond `max_buckets`, the oldest keep their requests and lose their shares."""
    backlog = backlog_of(718, 719, 720, 721, max_buckets=1)

    first, second, last = (decode(batch.payload, 1) for batch in send(backlog))

    assert first == Traffic(718, Counter(["r718", "r719"]))
    assert second == Traffic(720, Counter(["r720"]))
    assert last == bucket(721)
    assert backlog.dropped == 0


def test_oldest_hour_beyond_the_bound_is_dropped_and_counted() -> None:
    """An outage of days keeps the newest hours."""
    backlog = backlog_of(0, 720, 1440, 2160, max_buckets=1, max_hours=2)

    assert [batch.slot for batch in send(backlog)] == [720, 1440, 2160]
    assert backlog.dropped == 1


def test_backlog_is_behind_by_the_age_of_its_oldest_traffic() -> None:
    """The age counts from the end of the slot, also of batches that were sent."""
    backlog = backlog_of(2, 3)

    assert backlog.behind(14.0) == 0
    assert backlog.behind(25.0) == 10

    send(backlog)

    assert backlog.behind(25.0) == 10

    backlog.stored()

    assert backlog.behind(25.0) == 0


def test_cleared_backlog_does_not_use_a_number_again() -> None:
    """Traffic that was dropped may have been stored, so later batches have higher numbers."""
    backlog = backlog_of(0, 720, 721, max_buckets=1)
    send(backlog)
    backlog.add(bucket(722))

    backlog.clear()

    assert send(backlog) == ()

    backlog.add(bucket(723))

    assert [batch.number for batch in send(backlog)] == [4]
