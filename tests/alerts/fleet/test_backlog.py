from __future__ import annotations

from collections.abc import Sequence

import pytest

from tokenpulse_mw.alerts.fleet.backlog import Backlog
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store.records import Batch
from tokenpulse_mw.alerts.traffic import OVERFLOW, Outcomes
from tokenpulse_mw.alerts.traffic.bucket import Bucket, ReportKey

from .model import bucket, decode, encode


def backlog_of(*slots: int, max_buckets: int = 60) -> Backlog:
    """Return a backlog with a bucket in each slot, whose request is named after it."""
    backlog = Backlog(max_buckets=max_buckets, max_hours=2, max_names=2, max_batches=3)
    for slot in slots:
        backlog.add(bucket(slot, f"r{slot}"))
    return backlog


def send(backlog: Backlog) -> tuple[Batch, ...]:
    """Return the batches of the next heartbeat."""
    return finish(backlog.batches("a", encode, protocol=1))


def during_outage(*slots: int) -> Backlog:
    """Return a backlog of one whole bucket; no heartbeat succeeds since the bucket in slot 0."""
    backlog = backlog_of(0, max_buckets=1)
    send(backlog)
    for slot in slots:
        backlog.add(bucket(slot, f"r{slot}"))
        send(backlog)
    return backlog


def sent_after(backlog: Backlog) -> list[Bucket]:
    """Return the traffic that the backlog sends after an outage."""
    backlog.stored()
    return [decode(batch.payload, 1) for batch in send(backlog)]


def test_buckets_are_numbered_from_one() -> None:
    """Each bucket is one batch, and numbers continue after a heartbeat that succeeded."""
    backlog = backlog_of(7, 8)

    assert send(backlog) == (
        Batch("a", 1, 7, 1, encode(bucket(7, "r7"), 1)),
        Batch("a", 2, 8, 1, encode(bucket(8, "r8"), 1)),
    )
    assert backlog.pushed == 0

    backlog.stored()
    backlog.add(bucket(9, "r9"))

    assert backlog.pushed == 2
    assert [batch.number for batch in send(backlog)] == [3]


def test_batches_whose_outcome_is_unknown_are_sent_again_unchanged() -> None:
    """Newer buckets wait behind batches that were sent, so a number is never used twice."""
    backlog = backlog_of(7)
    sent = send(backlog)
    backlog.add(bucket(8, "r8"))

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
    """Beyond `max_buckets`, they keep requests and tokens of tenants, and their names."""
    backlog = during_outage(718)
    named = bucket(719, "r719")
    named.tenant_names = {"r719": "Acme"}
    named.keys = {"k1": 1}
    backlog.add(named)
    for slot in (720, 721):
        send(backlog)
        backlog.add(bucket(slot, f"r{slot}"))
    send(backlog)

    first, second, last = sent_after(backlog)

    merged = bucket(718, "r718", "r719")
    merged.tenant_names = {"r719": "Acme"}
    assert (first, second, last) == (merged, bucket(720, "r720"), bucket(721, "r721"))
    assert backlog.dropped == 0


def test_names_of_an_hour_are_bounded() -> None:
    """Traffic of further tenants is counted as that of the overflow."""
    backlog = during_outage(*range(1, 6))

    merged, last = sent_after(backlog)

    assert merged.tenants == {"r1": 1, "r2": 1, OVERFLOW: 2}
    assert last == bucket(5, "r5")


def test_each_merged_bucket_is_a_step() -> None:
    """The event loop runs other tasks between two buckets, whether merged or encoded."""
    backlog = backlog_of(1, 2, 3, max_buckets=2)

    steps = list(backlog.batches("a", encode, protocol=1))

    assert len(steps) == 1 + 3


def test_oldest_hour_beyond_the_bound_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """An outage of days keeps the newest hours, and is logged once."""
    backlog = during_outage(720, 1440, 2160, 2880, 3600)

    assert backlog.dropped == 2
    assert [traffic.slot for traffic in sent_after(backlog)] == [2160, 2880, 3600]
    assert caplog.messages == [
        "traffic dropped, not counted (logged once): slot=720 reason=the alert store has not "
        "received it for a long time"
    ]


def test_backlog_without_heartbeats_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """A request only appends; if no heartbeats are sent, the oldest traffic is dropped."""
    backlog = backlog_of(*range(9), max_buckets=2)

    assert (backlog.waiting, backlog.dropped, len(caplog.messages)) == (4, 5, 1)
    assert [batch.slot for batch in send(backlog)] == [5, 7, 8]


def test_each_outage_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """After a heartbeat that succeeded, dropped traffic is reported again."""
    backlog = backlog_of(*range(4), max_buckets=1)
    backlog.stored()
    for slot in (4, 5):
        backlog.add(bucket(slot))

    assert [message.split()[6] for message in caplog.messages] == ["slot=0", "slot=2"]


@pytest.mark.parametrize("names", [["\ud800"], ["huge"]])
def test_bucket_that_cannot_be_encoded_is_dropped_alone(
    names: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and all other traffic is sent."""
    backlog = backlog_of(1)
    for slot in (2, 3):
        damaged = bucket(slot, *names)
        damaged.reports = (
            {ReportKey("quota_exceeded", "", "k1"): (1.0, 1 << 70, 0.0)}
            if names == ["huge"]
            else {}
        )
        backlog.add(damaged)
    backlog.add(bucket(4, "r4"))

    assert [(batch.number, batch.slot) for batch in send(backlog)] == [(1, 1), (2, 4)]
    assert backlog.dropped == 2
    (message,) = caplog.messages
    assert message.startswith("traffic dropped, not counted (logged once): slot=2 reason=")


def test_moved_backlog_has_the_slots_of_the_corrected_time() -> None:
    """Traffic that was not sent yet follows the clock, with the times of its outcomes."""
    backlog = backlog_of(100, 1)
    traffic = bucket(200)
    traffic.outcomes = {("provider", "claude"): Outcomes(last_success=1_000_000_000)}
    backlog.add(traffic)

    backlog.move(-62.0)

    slots = [decode(batch.payload, 1) for batch in send(backlog)]
    assert [moved.slot for moved in slots] == [87, 0, 187]
    assert slots[2].outcomes["provider", "claude"].last_success == 938_000_000


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
    backlog = during_outage(720, 721)
    backlog.add(bucket(722, "r722"))

    backlog.clear()

    assert send(backlog) == ()

    backlog.add(bucket(723, "r723"))

    assert [batch.number for batch in send(backlog)] == [2]


def test_usage_survives_an_outage_and_is_sent_in_its_hour() -> None:
    """Merged buckets keep the usage of each hour, with a bounded number of rows."""
    backlog = during_outage()
    for slot, tenant in ((1, "a"), (2, "b"), (3, "c"), (720, "a"), (1441, "a")):
        newer = bucket(slot, f"r{slot}")
        newer.usage_of((tenant, "gpt-5", "openai"), max_keys=9)[0] += 1
        backlog.add(newer)
        send(backlog)
    backlog.stored()

    usage = [record for batch in send(backlog) for record in batch.usage]

    assert [(record.hour, record.tenant, record.requests) for record in usage] == [
        (0, "a", 1),
        (0, "b", 1),
        (0, OVERFLOW, 1),
        (1, "a", 1),
        (2, "a", 1),
    ]
