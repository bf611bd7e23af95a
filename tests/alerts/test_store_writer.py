"""StoreWriter: writes of a store that fails, hangs or rejects records lose and delay nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from tokenpulse_mw.alerts.store import (
    AlertRecord,
    BadRecord,
    Changes,
    Leader,
    MemoryAlertStore,
    StoreError,
    WindowRecord,
)
from tokenpulse_mw.alerts.store_writer import Snapshot, StoreWriter, changes_of
from tokenpulse_mw.alerts.tracker import AlertChanges

from ..support.waiting import PATIENCE
from .store.leadership import batch, beat, leader_of, loaded, take, taken_over, waiting
from .store.samples import alert, notification, resolved, transition

pytestmark = pytest.mark.anyio


class FailingStore(MemoryAlertStore):
    """A store that fails or hangs as a test chooses.

    Attributes:
        failure: Awaited in each call, if any.
        rejected: Errors by the ids of alerts and notifications.
        commits: Number of commits.
    """

    def __init__(self) -> None:
        super().__init__(wall=lambda: 0)
        self.failure: Callable[[], Awaitable[None]] | None = None
        self.rejected: dict[str, Exception] = {}
        self.commits = 0

    async def commit(self, changes: Changes, /, *, leader: Leader) -> int:
        self.commits += 1
        await self._fail()
        ids = [record.id for record in changes.alerts]
        for identity in ids + [item.id for item in changes.notifications]:
            if identity in self.rejected:
                raise self.rejected[identity]
        return await super().commit(changes, leader=leader)

    async def delivered(self, notification_id: str, /) -> None:
        await self._fail()
        await super().delivered(notification_id)

    async def prune(self, before: float, /) -> None:
        await self._fail()
        await super().prune(before)

    async def _fail(self) -> None:
        if self.failure is not None:
            await self.failure()


async def fail() -> None:
    """Raise the error of a store."""
    raise StoreError("no disk")


class WriterDriver:
    """A store writer of a leader, its store, and the errors that it reports.

    Attributes:
        leader: The leadership of the writer's process.
        fenced: Number of writes that the store rejected because another process leads.
    """

    def __init__(self, *, deadline: float = PATIENCE) -> None:
        self.store = FailingStore()
        self.reported: list[str] = []
        self.leader: Leader | None = None
        self.fenced = 0
        self.writer = StoreWriter(
            self.store,
            leader=lambda: self.leader,
            fenced=self._fence,
            deadline=deadline,
            report=self._report,
        )

    def _fence(self) -> None:
        self.fenced += 1

    def _report(self, component: str, error: Exception) -> None:
        self.reported.append(f"{component}: {error!r}")

    async def write(self, *alerts: AlertRecord) -> None:
        """Write the alerts of an evaluation."""
        await self.write_changes(AlertChanges(alerts=list(alerts)))

    async def write_changes(self, changes: AlertChanges, *notifications: str) -> None:
        """Write the changes and the notifications of an evaluation."""
        self.leader = self.leader or await leader_of(self.store)
        self.writer.add([changes], [notification(identity) for identity in notifications])
        await self.writer.write()

    async def deliver(self, identity: str) -> None:
        """Record that a notification is delivered."""
        self.leader = self.leader or await leader_of(self.store)
        await self.writer.record_outcome(identity, lambda: self.store.delivered(identity))

    async def alerts(self) -> dict[str, str]:
        """Return the severities of the stored alerts by id."""
        return {record.id: record.severity for record in (await loaded(self.store)).alerts}

    async def undelivered(self) -> list[str]:
        """Return the ids of the stored notifications."""
        return [stored.id for stored in await waiting(self.store)]

    def reported_kinds(self) -> list[str]:
        """Return the component and the type of each reported error."""
        return [report.split("(")[0] for report in self.reported]


async def test_failed_writes_are_retried_with_the_next_evaluation() -> None:
    """The newest state of each alert, all transitions and all notifications are written."""
    driver = WriterDriver()
    driver.store.failure = fail
    critical = alert(severity="critical")
    evaluations = [
        AlertChanges(alerts=[alert()], transitions=[transition()]),
        AlertChanges(alerts=[alert("a2", state="pending")]),
        AlertChanges(alerts=[critical], transitions=[transition(at=200, severity="critical")]),
        AlertChanges(forgotten=["a2"]),
    ]
    for number, changes in enumerate(evaluations):
        await driver.write_changes(changes, f"n{number}")
    await driver.deliver("n1")
    assert driver.reported == ["alert store: StoreError('no disk')"] * 5

    driver.store.failure = None
    await driver.write()

    assert (await loaded(driver.store)).alerts == (critical,)
    assert [stored.at for stored in await driver.store.transitions("a1")] == [100, 200]
    assert await driver.undelivered() == ["n0", "n2", "n3"]


async def test_notification_delivered_before_it_was_stored_stays_delivered() -> None:
    """The store recovers between an evaluation and the delivery."""
    driver = WriterDriver()
    driver.store.failure = fail
    await driver.write_changes(AlertChanges(), "n1")
    driver.store.failure = None

    await driver.deliver("n1")
    await driver.write()

    assert await driver.undelivered() == []


async def test_failed_write_of_an_outcome_is_retried_with_the_next_outcome() -> None:
    """No evaluation is needed in between."""
    driver = WriterDriver()
    await driver.write_changes(AlertChanges(), "n1", "n2")
    driver.store.failure = fail
    await driver.deliver("n1")
    assert await driver.undelivered() == ["n1", "n2"]
    driver.store.failure = None

    await driver.deliver("n2")

    assert await driver.undelivered() == []


async def test_outcome_deferred_during_a_write_is_written_later() -> None:
    """A notification becomes a dead letter while its retry is being stored."""
    driver = WriterDriver()
    await driver.write_changes(AlertChanges(), "n1")

    async def postpone() -> None:
        await driver.store.postponed("n1", 1, 60, "busy")
        driver.writer.defer("n1", lambda: driver.store.dead("n1", 1, "no room"))

    await driver.writer.record_outcome("n1", postpone)
    await driver.write()

    assert await driver.undelivered() == []


async def test_store_that_hangs_times_out_until_the_next_evaluation() -> None:
    """The unwritten alerts are written then."""
    driver = WriterDriver(deadline=0.01)
    driver.store.failure = anyio.sleep_forever
    with anyio.fail_after(PATIENCE):
        await driver.write(alert())
        await driver.writer.prune(0)
    assert driver.reported == ["alert store: TimeoutError()"] * 2

    driver.store.failure = None
    await driver.write(alert("a2"))

    assert (await driver.alerts()).keys() == {"a1", "a2"}


async def test_store_that_hangs_delays_one_outcome_only() -> None:
    """The other outcomes are written with the next evaluation."""
    driver = WriterDriver(deadline=0.01)
    driver.store.failure = anyio.sleep_forever

    with anyio.fail_after(PATIENCE):
        for number in range(20):
            await driver.deliver(f"n{number}")
    assert driver.reported == ["alert store: TimeoutError()"]

    driver.store.failure = None
    await driver.write(alert())
    await driver.deliver("n1")
    assert driver.reported == ["alert store: TimeoutError()"]


async def test_timeout_includes_the_wait_for_other_calls() -> None:
    """Concurrent calls of a store that hangs time out together."""
    driver = WriterDriver(deadline=0.01)
    driver.store.failure = anyio.sleep_forever

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(driver.deliver, f"n{number}")

    assert len(driver.reported) == 20


async def test_cancelled_write_is_repeated_at_the_end() -> None:
    """Newer changes take precedence over those of the cancelled write."""
    driver = WriterDriver()
    driver.store.failure = anyio.sleep_forever
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.write, alert(severity="warning"), alert("a2"))
        await anyio.wait_all_tasks_blocked()
        driver.writer.add([AlertChanges(alerts=[alert(severity="critical")])], [])
        tasks.cancel_scope.cancel()

    driver.store.failure = None
    await driver.writer.aclose()

    assert await driver.alerts() == {"a1": "critical", "a2": "warning"}


async def test_rejected_changes_are_reported_and_dropped() -> None:
    """The next evaluation is written."""
    driver = WriterDriver()
    await driver.write_changes(AlertChanges(transitions=[transition("unknown")]))
    await driver.write(alert())

    assert driver.reported_kinds() == ["alert record: UnknownAlert"]
    assert (await driver.alerts()).keys() == {"a1"}


async def test_only_rejected_records_are_dropped() -> None:
    """All other records of the evaluation are written."""
    driver = WriterDriver()
    driver.store.rejected = {"a3": BadRecord("too long"), "n2": ValueError("no JSON")}
    ids = [f"a{number}" for number in range(1, 8)]
    changes = AlertChanges(
        alerts=list(map(alert, ids)), transitions=list(map(transition, ids)), forgotten=["gone"]
    )

    await driver.write_changes(changes, "n1", "n2", "n3")

    assert (await driver.alerts()).keys() == set(ids) - {"a3"}
    stored = [len(await driver.store.transitions(alert_id)) for alert_id in ids]
    assert stored == [1, 1, 0, 1, 1, 1, 1]
    assert await driver.undelivered() == ["n1", "n3"]
    assert driver.reported_kinds() == [
        "alert record: BadRecord",
        "alert record: UnknownAlert",
        "alert record: ValueError",
    ]

    commits = driver.store.commits
    await driver.writer.write()
    assert driver.store.commits == commits, "the buffer is not empty"


async def test_store_that_is_down_gets_one_commit_in_an_evaluation() -> None:
    """An error of the store does not split the changes."""
    driver = WriterDriver()
    driver.store.failure = fail

    await driver.write(*(alert(f"a{number}") for number in range(8)))

    assert driver.store.commits == 1


async def test_store_that_fails_between_two_halves_gets_the_rest_later() -> None:
    """Written and rejected records are not written again."""
    driver = WriterDriver()
    driver.store.rejected = {"a0": BadRecord("too long")}
    written: list[list[str]] = []
    commit = driver.store.commit

    async def fail_from_the_fifth_commit(changes: Changes, /, *, leader: Leader) -> int:
        written.append([record.id for record in changes.alerts])
        if len(written) > 4:
            await fail()
        return await commit(changes, leader=leader)

    driver.store.commit = fail_from_the_fifth_commit  # type: ignore[method-assign]
    await driver.write(*(alert(f"a{number}") for number in range(4)))
    assert written == [["a0", "a1", "a2", "a3"], ["a0", "a1"], ["a0"], ["a1"], ["a2", "a3"]]

    driver.store.commit = commit  # type: ignore[method-assign]
    await driver.write(alert("a2", severity="critical"))

    assert await driver.alerts() == {"a1": "warning", "a2": "critical", "a3": "warning"}
    assert driver.reported_kinds() == ["alert record: BadRecord", "alert store: StoreError"]


async def test_rejected_outcome_does_not_block_other_outcomes() -> None:
    """The notification of the outcome stays stored."""
    driver = WriterDriver()
    await driver.write_changes(AlertChanges(), "n1", "n2")
    postponed = driver.store.postponed
    await driver.writer.record_outcome("n1", lambda: postponed("n1", 1, float("inf"), ""))
    await driver.deliver("n2")

    await driver.write()
    await driver.write()

    assert await driver.undelivered() == ["n1"]


async def test_buffer_of_unwritten_changes_is_bounded() -> None:
    """Above 20,000 alerts the oldest are dropped."""
    driver = WriterDriver()
    driver.leader = await leader_of(driver.store)
    driver.store.failure = fail
    for evaluation in range(25):
        alerts = [resolved(f"{evaluation}-{number}", at=evaluation) for number in range(1000)]
        driver.writer.add([AlertChanges(alerts=alerts)], [])
        driver.writer.defer(str(evaluation), fail)
        await driver.writer.write()
    written: list[Changes] = []

    async def record(changes: Changes, /, *, leader: Leader) -> int:
        written.append(changes)
        return 1

    driver.store.commit = record  # type: ignore[method-assign]
    await driver.writer.write()

    assert [stored.resolved_at for stored in written[0].alerts] == [
        evaluation for evaluation in range(5, 25) for _ in range(1000)
    ]


async def test_prune_removes_old_alerts() -> None:
    """A failure is reported, and nothing else happens."""
    driver = WriterDriver()
    await driver.write(resolved("old", at=10), resolved("new", at=20))

    await driver.writer.prune(15)
    driver.store.failure = fail
    await driver.writer.prune(99)

    assert await driver.store.alert("old") is None
    assert await driver.store.alert("new") is not None
    assert driver.reported == ["alert store: StoreError('no disk')"]


def snapshot(stored: Callable[[], None] = lambda: None, at: float = 60) -> Snapshot:
    """Return the windows after an evaluation, with one slot and one consumed batch."""
    windows = (WindowRecord("minute", 5, 1, b"counts"),)
    consumed = (("p1", 1),)
    changes = Changes(windows=windows, expired={"minute": 5}, consumed=consumed, evaluated_at=at)
    return Snapshot(changes, stored)


async def test_snapshot_is_stored_in_one_commit_with_the_changes() -> None:
    """A kill between an evaluation and its windows would count the same traffic again."""
    driver = WriterDriver()
    await beat(driver.store, "p1", batch(1))
    confirmed: list[str] = []
    driver.writer.add_snapshot(snapshot(lambda: confirmed.append("stored")))

    await driver.write(alert())

    assert (driver.store.commits, confirmed) == (1, ["stored"])
    state = await taken_over(driver.store)
    assert [record.payload for record in state.windows] == [b"counts"]
    assert (state.batches, state.evaluated_at) == ((), 60)


async def test_failed_snapshot_is_repeated_unless_a_newer_one_replaces_it() -> None:
    """Each snapshot has everything since the last one that was stored."""
    driver = WriterDriver()
    confirmed: list[float] = []
    driver.leader = await leader_of(driver.store)
    driver.store.failure = fail
    for at in (60, 120):
        driver.writer.add_snapshot(snapshot(lambda at=at: confirmed.append(at), at))  # type: ignore[misc]
        await driver.writer.write()
    driver.store.failure = None

    await driver.writer.write()

    assert confirmed == [120]
    assert (await taken_over(driver.store)).evaluated_at == 120


async def test_invalid_record_does_not_prevent_the_snapshot() -> None:
    """The snapshot is the last record of the last half."""
    driver = WriterDriver()
    driver.store.rejected = {"a1": BadRecord("too long")}
    driver.writer.add_snapshot(snapshot())

    await driver.write(alert("a1"))

    assert driver.reported_kinds() == ["alert record: BadRecord"]
    assert (await taken_over(driver.store)).evaluated_at == 60


async def test_writer_of_an_earlier_leader_stores_nothing() -> None:
    """The changes are dropped: the leader of now decides again, from the stored state."""
    driver = WriterDriver()
    driver.leader = await take(driver.store, "p1")
    await take(driver.store, "p2")
    driver.writer.add([AlertChanges(alerts=[alert()])], [])

    assert not await driver.writer.write()

    assert (driver.fenced, driver.reported, await driver.alerts()) == (1, [], {})


async def test_changes_without_a_leadership_stay_buffered() -> None:
    """A process that evaluates alone stores its changes when it leads again."""
    driver = WriterDriver()
    driver.writer.add([AlertChanges(alerts=[alert()])], [])
    assert await driver.writer.write()
    assert driver.store.commits == 0

    await driver.write()

    assert await driver.alerts() == {"a1": "warning"}


def test_changes_of_records_have_each_record_in_its_place() -> None:
    """The records of a buffer become the changes of one commit."""
    records = (alert(), transition(), notification(), "a3", snapshot())

    assert changes_of(records) == Changes(
        (alert(),),
        (transition(),),
        (notification(),),
        ("a3",),
        windows=snapshot().changes.windows,
        expired={"minute": 5},
        consumed=(("p1", 1),),
        evaluated_at=60,
    )


async def test_buffer_without_a_leadership_is_bounded() -> None:
    """A process that evaluates alone for days keeps the newest 20,000 records of each kind."""
    driver = WriterDriver()
    for evaluation in range(3):
        identities = [f"{evaluation}-{number}" for number in range(10_000)]
        driver.writer.add([], [notification(identity) for identity in identities])
        assert await driver.writer.write()

    assert not driver.writer.has("0-0")
    assert driver.writer.has("1-0")
    assert driver.writer.has("2-9999")
