"""StoreWriter: writes of a store that fails, hangs or rejects records lose and delay nothing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEngine, AlertStore, SQLAlertStore
from tokenpulse_mw.alerts.store import AlertRecord, BadRecord, Changes, MemoryAlertStore, StoreError
from tokenpulse_mw.alerts.store_writer import StoreWriter, split
from tokenpulse_mw.alerts.tracker import AlertChanges

from ..support.waiting import PATIENCE
from .findings import FixedRule, finding
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

    async def commit(self, changes: Changes) -> str | None:
        self.commits += 1
        await self._fail()
        ids = [record.id for record in changes.alerts]
        for identity in ids + [item.id for item in changes.notifications]:
            if identity in self.rejected:
                raise self.rejected[identity]
        return await super().commit(changes)

    async def delivered(self, notification_id: str) -> None:
        await self._fail()
        await super().delivered(notification_id)

    async def prune(self, before: float) -> None:
        await self._fail()
        await super().prune(before)

    async def _fail(self) -> None:
        if self.failure is not None:
            await self.failure()


async def fail() -> None:
    """Raise the error of a store."""
    raise StoreError("no disk")


class WriterDriver:
    """A store writer, its store, and the errors that it reports."""

    def __init__(self, *, deadline: float = PATIENCE) -> None:
        self.store = FailingStore()
        self.reported: list[str] = []
        self.writer = StoreWriter(self.store, deadline=deadline, report=self._report)

    def _report(self, component: str, error: Exception) -> None:
        self.reported.append(f"{component}: {error!r}")

    async def write(self, *alerts: AlertRecord) -> None:
        """Write the alerts of an evaluation."""
        await self.write_changes(AlertChanges(alerts=list(alerts)))

    async def write_changes(self, changes: AlertChanges, *notifications: str) -> None:
        """Write the changes and the notifications of an evaluation."""
        self.writer.add([changes], [notification(identity) for identity in notifications])
        await self.writer.write()

    async def deliver(self, identity: str) -> None:
        """Record that a notification is delivered."""
        await self.writer.record_outcome(identity, lambda: self.store.delivered(identity))

    async def alerts(self) -> dict[str, str]:
        """Return the severities of the stored alerts by id."""
        return {record.id: record.severity for record in (await self.store.load()).alerts}

    async def undelivered(self) -> list[str]:
        """Return the ids of the stored notifications."""
        return [stored.id for stored in (await self.store.load()).notifications]

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

    assert (await driver.store.load()).alerts == (critical,)
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

    async def fail_from_the_fifth_commit(changes: Changes) -> None:
        written.append([record.id for record in changes.alerts])
        if len(written) > 4:
            await fail()
        await commit(changes)

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
    driver.store.failure = fail
    for evaluation in range(25):
        alerts = [resolved(f"{evaluation}-{number}", at=evaluation) for number in range(1000)]
        driver.writer.add([AlertChanges(alerts=alerts)], [])
        driver.writer.defer(str(evaluation), fail)
        await driver.writer.write()
    written: list[Changes] = []

    async def record(changes: Changes) -> None:
        written.append(changes)

    driver.store.commit = record  # type: ignore[method-assign]
    await driver.writer.write()

    assert [stored.resolved_at for stored in written[0].alerts] == [
        evaluation for evaluation in range(5, 25) for _ in range(1000)
    ]


async def test_load_returns_the_stored_state_or_none_if_the_store_fails() -> None:
    """The failure is reported."""
    driver = WriterDriver(deadline=0.01)
    await driver.write(alert())
    state = await driver.writer.load()
    assert state is not None
    assert state.alerts == (alert(),)

    async def load() -> None:
        await anyio.sleep_forever()

    driver.store.load = load  # type: ignore[assignment, method-assign]
    assert await driver.writer.load() is None
    assert driver.reported == ["loading the alert store: TimeoutError()"]


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


def parts(changes: Changes) -> list[Changes]:
    """Split changes into single records."""
    halves = split(changes)
    return [part for half in halves for part in parts(half)] if halves else [changes]


def test_changes_are_split_into_single_records() -> None:
    """An alert comes before its transitions."""
    changes = Changes(
        (alert("a1"), alert("a2")),
        (transition("a1"), transition("a2")),
        (notification("n1"),),
        ("a3", "a4"),
    )

    assert parts(changes) == [
        Changes(alerts=(alert("a1"),)),
        Changes(alerts=(alert("a2"),)),
        Changes(transitions=(transition("a1"),)),
        Changes(transitions=(transition("a2"),)),
        Changes(notifications=(notification("n1"),)),
        Changes(forgotten=("a3",)),
        Changes(forgotten=("a4",)),
    ]


def test_single_record_is_not_split() -> None:
    """Empty changes are not split either."""
    assert split(Changes()) == split(Changes(forgotten=("a1",))) == ()


def engine_on(store: AlertStore, rule: FixedRule | None = None) -> AlertEngine:
    """Return an engine without sinks."""
    return AlertEngine([rule or FixedRule()], [], store=store)


async def test_two_engines_on_one_store_log_one_error_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error names the other engine, and is logged even if no alert changes."""
    store = MemoryAlertStore()
    one, other = engine_on(store), engine_on(store)

    for engine in (one, other, one, other, one, other):
        await engine.evaluate()

    records = [record for record in caplog.records if "another engine" in record.getMessage()]
    assert [record.levelno for record in records] == [logging.ERROR] * 2
    assert "give each engine its own store" in records[0].getMessage()
    assert len({record.args for record in records}) == 2


def test_workers_that_share_a_database_log_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`uvicorn --workers` creates a store for each worker."""

    async def run() -> None:
        stores = [SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db") for _ in range(2)]
        one, other = map(engine_on, stores)
        for engine in (one, other, one):
            await engine.evaluate()
        for store in stores:
            await store.aclose()

    anyio.run(run)

    assert [record.name for record in caplog.records] == ["tokenpulse_mw.alerts"]
    assert "alerts.db')" in caplog.text


async def test_engine_after_a_restart_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The engine before it no longer writes."""
    store, rule = MemoryAlertStore(), FixedRule(finding())

    for _ in range(3):
        engine = engine_on(store, rule)
        for _ in range(3):
            await engine.evaluate()
            rule.findings = [] if rule.findings else [finding()]

    assert caplog.records == []


async def test_commit_of_a_custom_store_may_return_none(caplog: pytest.LogCaptureFixture) -> None:
    """Two engines on such a store are not detected."""

    class CustomStore(MemoryAlertStore):
        async def commit(self, changes: Changes) -> None:
            await super().commit(changes)

    store = CustomStore()
    one, other = engine_on(store), engine_on(store)
    for engine in (one, other, one, other):
        await engine.evaluate()

    assert caplog.records == []
