from __future__ import annotations

from collections.abc import Iterable

from tokenpulse_mw.alerts.fleet.inbox import Inbox, watermark
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store.records import Batch
from tokenpulse_mw.alerts.traffic.bucket import Bucket

from .model import bucket, decode, encode


def batch(
    name: str, number: int, slot: int, *, protocol: int = 1, error_window: float = 300
) -> Batch:
    """Return a batch with one request that is named after it."""
    traffic = bucket(slot, f"{name}{number}", error_window=error_window)
    return Batch(name, number, slot, protocol, encode(traffic, protocol))


def inbox_of(*batches: Batch) -> Inbox:
    """Return an inbox that has received batches."""
    inbox = Inbox(protocol=1)
    add(inbox, *batches)
    return inbox


def add(inbox: Inbox, *batches: Batch) -> list[tuple[Batch, ValueError]]:
    """Receive batches."""
    return finish(inbox.add(batches, decode))


def requests(buckets: Iterable[Bucket]) -> list[tuple[int, list[str]]]:
    """Return slot and requests of each bucket."""
    return [(taken.slot, sorted(taken.tenants)) for taken in buckets]


def test_buckets_are_taken_by_slot_with_processes_merged() -> None:
    """The windows of the leader see traffic as one process would have."""
    inbox = inbox_of(batch("a", 1, 3), batch("a", 2, 4), batch("b", 1, 2), batch("b", 2, 3))

    assert requests(inbox.take(3)) == [(2, ["b1"]), (3, ["a1", "b2"])]
    assert requests(inbox.take(3)) == []
    assert requests(inbox.take(4)) == [(4, ["a2"])]


def test_buckets_of_different_profiles_are_not_merged() -> None:
    """Shares that were counted by other thresholds stay apart."""
    inbox = inbox_of(batch("a", 1, 3), batch("b", 1, 3, error_window=600), batch("c", 1, 3))

    assert requests(inbox.take(3)) == [(3, ["a1", "c1"]), (3, ["b1"])]


def test_batches_are_added_once() -> None:
    """A batch that was read before is ignored."""
    inbox = inbox_of(batch("a", 1, 3))

    add(inbox, batch("a", 1, 3), batch("a", 2, 3))

    assert inbox.known == {"a": 2}
    assert requests(inbox.take(3)) == [(3, ["a1", "a2"])]


def test_batches_are_decoded_one_in_each_step() -> None:
    """The event loop runs other tasks between two batches."""
    steps = Inbox(protocol=1).add([batch("a", 1, 3), batch("a", 2, 3)], decode)

    assert len(list(steps)) == 2


def test_batches_are_consumed_once_they_are_taken() -> None:
    """A commit deletes exactly the batches whose traffic is in its windows."""
    inbox = inbox_of(batch("a", 1, 3), batch("a", 2, 4), batch("b", 1, 3))

    assert inbox.consumed() == ()

    inbox.take(3)

    assert inbox.consumed() == (("a", 1), ("b", 1))


def test_failed_commit_is_repeated_with_more() -> None:
    """Batches stay consumed until a commit that has them succeeds."""
    inbox = inbox_of(batch("a", 1, 3), batch("a", 2, 4))
    inbox.take(3)
    committed = inbox.consumed()
    inbox.take(4)

    assert inbox.consumed() == (("a", 1), ("a", 2))

    inbox.confirm_stored(committed)

    assert inbox.consumed() == (("a", 2),)


def test_bucket_behind_the_watermark_is_late() -> None:
    """A late bucket is counted, and the next take returns it."""
    inbox = inbox_of(batch("a", 1, 5))
    inbox.take(5)

    add(inbox, batch("b", 1, 4), batch("b", 2, 5), batch("b", 3, 6))

    assert inbox.late == 2
    assert requests(inbox.take(3)) == [(4, ["b1"]), (5, ["b2"])]


def test_all_buckets_are_taken_without_a_watermark() -> None:
    """An evaluation on request counts the current slot, and its rest is not late."""
    inbox = inbox_of(batch("a", 1, 5), batch("a", 2, 4))

    assert requests(inbox.take()) == [(4, ["a2"]), (5, ["a1"])]

    add(inbox, batch("a", 3, 5))

    assert inbox.late == 0
    assert requests(inbox.take(4)) == []
    assert requests(inbox.take(5)) == [(5, ["a3"])]


def test_damaged_batch_is_consumed_and_returned_once() -> None:
    """A batch that cannot be decoded does not stop the others, nor is it read again."""
    damaged = Batch("a", 2, 3, 1, b"{")
    inbox = Inbox(protocol=1)

    ((rejected, error),) = add(inbox, batch("a", 1, 3), damaged, batch("a", 3, 3))

    assert rejected is damaged
    assert isinstance(error, ValueError)
    assert inbox.consumed() == (("a", 2),)
    assert add(inbox, damaged) == []
    assert requests(inbox.take(3)) == [(3, ["a1", "a3"])]


def test_batch_of_a_newer_protocol_stays_in_the_store() -> None:
    """A leader that can read it counts it later, so it is neither read nor consumed."""
    inbox = inbox_of(batch("a", 1, 3, protocol=2), batch("a", 2, 3))

    assert inbox.known == {"a": 2}
    assert requests(inbox.take(3)) == [(3, ["a2"])]
    assert inbox.consumed() == (("a", 2),)


def test_numbers_of_processes_that_left_are_forgotten() -> None:
    """Numbers stay while batches of their process are not stored in windows."""
    inbox = inbox_of(batch("a", 1, 3), batch("b", 1, 3), batch("c", 1, 9), batch("d", 1, 3))
    inbox.take(3)
    inbox.confirm_stored((("a", 1), ("b", 1)))

    inbox.retain(["b"])

    assert inbox.known == {"b": 1, "c": 1, "d": 1}


def test_watermark_is_the_lowest_slot_that_all_processes_have_stored() -> None:
    """Windows are complete up to the process that is furthest behind."""
    assert watermark([18, 19], 100.0, bucket_seconds=5) == 18


def test_watermark_is_a_slot_that_has_ended() -> None:
    """Windows never run into the future, even if a process was ahead of the fleet time."""
    assert watermark([25, 30], 104.9, bucket_seconds=5) == 19


def test_watermark_is_at_most_the_patience_behind() -> None:
    """Traffic of a process with a backlog is late, and others do not wait for it."""
    assert watermark([3, 19], 100.0, bucket_seconds=5) == 17
    assert watermark([3, 19], 100.0, bucket_seconds=5, patience=20.0) == 15
    assert watermark([], 100.0, bucket_seconds=5) == 17
