"""What an engine keeps: whatever the store does, nothing is lost, and nobody waits for ever."""

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


class Sick(MemoryAlertStore):
    """A store that fails, or never answers, as long as a test says so.

    Attributes:
        trouble: What happens whenever it is asked.
        refuses: The ids of alerts and notifications that it cannot keep.
        asked: How often it was to commit something.
    """

    def __init__(self) -> None:
        super().__init__(wall=lambda: 0)
        self.trouble: Callable[[], Awaitable[None]] | None = None
        self.refuses: dict[str, Exception] = {}
        self.asked = 0

    async def commit(self, changes: Changes) -> str | None:
        self.asked += 1
        await self._suffer()
        given = [each.id for each in changes.alerts] + [each.id for each in changes.notifications]
        for identity in given:
            if identity in self.refuses:
                raise self.refuses[identity]
        return await super().commit(changes)

    async def delivered(self, notification_id: str) -> None:
        await self._suffer()
        await super().delivered(notification_id)

    async def prune(self, before: float) -> None:
        await self._suffer()
        await super().prune(before)

    async def _suffer(self) -> None:
        if self.trouble is not None:
            await self.trouble()


async def fails() -> None:
    """Say so at once."""
    raise StoreError("no disk")


class Kept:
    """A journal, its store, and what it reports."""

    def __init__(self, *, deadline: float = PATIENCE) -> None:
        self.store = Sick()
        self.reported: list[str] = []
        self.journal = StoreWriter(self.store, deadline=deadline, report=self._report)

    def _report(self, component: str, error: Exception) -> None:
        self.reported.append(f"{component}: {error!r}")

    async def keep(self, *alerts: AlertRecord, **news: list[str]) -> None:
        """A round has made these of its alerts."""
        self.journal.add([AlertChanges(alerts=list(alerts), **news)], [])  # type: ignore[arg-type]
        await self.journal.write()

    async def delivered(self, identity: str) -> None:
        """A sink has taken it."""
        await self.journal.record_outcome(identity, lambda: self.store.delivered(identity))

    async def waiting(self) -> list[str]:
        """What a process after this one would deliver."""
        return [each.id for each in (await self.store.load()).notifications]


async def test_what_a_store_did_not_take_it_gets_with_the_next_round() -> None:
    """Alerts as they stand by then, everything that happened to them, and what is to be told."""
    kept = Kept()
    kept.store.trouble = fails
    worse = alert(severity="critical")
    news = [
        AlertChanges(alerts=[alert()], transitions=[transition()]),
        AlertChanges(alerts=[alert("a2", state="pending")]),
        AlertChanges(alerts=[worse], transitions=[transition(at=200, severity="critical")]),
        AlertChanges(forgotten=["a2"]),
    ]
    for number, each in enumerate(news):
        kept.journal.add([each], [notification(f"n{number}")])
        await kept.journal.write()
    await kept.delivered("n1")
    assert kept.reported == ["alert store: StoreError('no disk')"] * 5

    kept.store.trouble = None
    await kept.keep()

    assert (await kept.store.load()).alerts == (worse,)
    assert [each.at for each in await kept.store.transitions("a1")] == [100, 200]
    assert await kept.waiting() == ["n0", "n2", "n3"]


async def test_what_a_sink_took_before_the_store_knew_of_it_does_not_come_back() -> None:
    """The store recovers between a round and its delivery; nothing is told again later."""
    kept = Kept()
    kept.store.trouble = fails
    kept.journal.add([], [notification()])
    await kept.journal.write()
    kept.store.trouble = None

    await kept.delivered("n1")
    await kept.keep()

    assert await kept.waiting() == []


async def test_what_became_of_a_notification_is_kept_later_where_the_store_fails() -> None:
    """With the next round, or with what becomes of another one."""
    kept = Kept()
    kept.journal.add([], [notification("n1"), notification("n2")])
    await kept.journal.write()
    kept.store.trouble = fails
    await kept.delivered("n1")
    assert await kept.waiting() == ["n1", "n2"]
    kept.store.trouble = None

    await kept.delivered("n2")

    assert await kept.waiting() == []


async def test_what_comes_while_the_store_writes_is_kept_too() -> None:
    """That a letter was dropped is not lost because it was just being postponed."""
    kept = Kept()
    kept.journal.add([], [notification()])
    await kept.journal.write()

    async def postpone() -> None:
        await kept.store.postponed("n1", 1, 60, "busy")
        kept.journal.defer("n1", lambda: kept.store.dead("n1", 1, "no room"))

    await kept.journal.record_outcome("n1", postpone)
    await kept.keep()

    assert await kept.waiting() == []


async def test_a_store_that_hangs_is_given_up_until_the_next_round() -> None:
    """Alerts are told meanwhile, and it gets all that it missed."""
    kept = Kept(deadline=0.01)
    kept.store.trouble = anyio.sleep_forever
    with anyio.fail_after(PATIENCE):
        await kept.keep(alert())
        await kept.journal.prune(0)
    assert kept.reported == ["alert store: TimeoutError()"] * 2

    kept.store.trouble = None
    await kept.keep(alert("a2"))

    assert {each.id for each in (await kept.store.load()).alerts} == {"a1", "a2"}


async def test_a_store_that_hangs_holds_up_one_delivery_and_no_more() -> None:
    """What became of the others it hears with the next round."""
    kept = Kept(deadline=0.01)
    kept.store.trouble = anyio.sleep_forever

    with anyio.fail_after(PATIENCE):
        for number in range(20):
            await kept.delivered(f"n{number}")
    assert kept.reported == ["alert store: TimeoutError()"]

    kept.store.trouble = None
    await kept.keep(alert())
    await kept.delivered("n1")
    assert kept.reported == ["alert store: TimeoutError()"]


async def test_who_waits_for_a_store_that_hangs_waits_no_longer_than_for_the_store() -> None:
    """However many ask at once."""
    kept = Kept(deadline=0.01)
    kept.store.trouble = anyio.sleep_forever

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(kept.delivered, f"n{number}")

    assert len(kept.reported) == 20


async def test_what_was_being_kept_when_an_engine_is_left_is_kept_again() -> None:
    """A store may have done it or not: to give it once more does no harm."""
    kept = Kept()
    kept.store.trouble = anyio.sleep_forever
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.keep, alert(severity="warning"), alert("a2"))
        await anyio.wait_all_tasks_blocked()
        kept.journal.add([AlertChanges(alerts=[alert(severity="critical")])], [])
        tasks.cancel_scope.cancel()

    kept.store.trouble = None
    await kept.journal.aclose()

    severities = {each.id: each.severity for each in (await kept.store.load()).alerts}
    assert severities == {"a1": "critical", "a2": "warning"}


async def test_what_a_store_will_never_take_holds_up_nothing() -> None:
    """It is told, and the next round is kept."""
    kept = Kept()
    kept.journal.add([AlertChanges(transitions=[transition("unknown")])], [])
    await kept.journal.write()
    await kept.keep(alert())

    assert [each.split("(")[0] for each in kept.reported] == ["alert record: UnknownAlert"]
    assert [each.id for each in (await kept.store.load()).alerts] == ["a1"]


async def test_a_record_that_cannot_be_kept_costs_only_itself() -> None:
    """All else of its round is kept, and that one is told."""
    kept = Kept()
    kept.store.refuses = {"a3": BadRecord("too long"), "n2": ValueError("no JSON")}
    many = [alert(f"a{number}") for number in range(1, 8)]
    news = AlertChanges(
        alerts=many, transitions=[transition(each.id) for each in many], forgotten=["gone"]
    )
    kept.journal.add([news], [notification(f"n{number}") for number in range(1, 4)])

    await kept.journal.write()

    assert {each.id for each in (await kept.store.load()).alerts} == {
        each.id for each in many if each.id != "a3"
    }
    assert [len(await kept.store.transitions(each.id)) for each in many] == [1, 1, 0, 1, 1, 1, 1]
    assert await kept.waiting() == ["n1", "n3"]
    assert [each.split("(")[0] for each in kept.reported] == [
        "alert record: BadRecord",
        "alert record: UnknownAlert",
        "alert record: ValueError",
    ]

    asked = kept.store.asked
    await kept.journal.write()
    assert kept.store.asked == asked  # nothing of it is left


async def test_a_store_that_is_down_is_asked_once_a_round() -> None:
    """Its failure says nothing of the records."""
    kept = Kept()
    kept.store.trouble = fails

    await kept.keep(*(alert(f"a{number}") for number in range(8)))

    assert kept.store.asked == 1


async def test_a_store_that_goes_down_meanwhile_gets_the_rest_later() -> None:
    """And is not asked again for what it has, or for what it cannot keep."""
    kept = Kept()
    kept.store.refuses = {"a0": BadRecord("too long")}
    written: list[list[str]] = []
    commit = kept.store.commit

    async def twice(changes: Changes) -> None:
        written.append([each.id for each in changes.alerts])
        if len(written) > 4:
            await fails()
        await commit(changes)

    kept.store.commit = twice  # type: ignore[method-assign]
    await kept.keep(*(alert(f"a{number}") for number in range(4)))
    assert written == [["a0", "a1", "a2", "a3"], ["a0", "a1"], ["a0"], ["a1"], ["a2", "a3"]]

    kept.store.commit = commit  # type: ignore[method-assign]
    await kept.keep(alert("a2", severity="critical"))

    found = {each.id: each.severity for each in (await kept.store.load()).alerts}
    assert found == {"a1": "warning", "a2": "critical", "a3": "warning"}
    assert [each.split("(")[0] for each in kept.reported] == [
        "alert record: BadRecord",
        "alert store: StoreError",
    ]


async def test_a_store_that_never_takes_what_became_of_one_learns_of_the_others() -> None:
    """One that cannot be written does not have them all told again."""
    kept = Kept()
    kept.journal.add([], [notification("n1"), notification("n2")])
    await kept.journal.record_outcome("n1", lambda: kept.store.postponed("n1", 1, float("inf"), ""))
    await kept.delivered("n2")

    await kept.keep()
    await kept.keep()

    assert await kept.waiting() == ["n1"]


async def test_what_waits_for_a_store_is_bounded() -> None:
    """It may fail for weeks: then the oldest is left out, and the newest is kept."""
    kept = Kept()
    kept.store.trouble = fails
    for number in range(25):
        many = [resolved(f"{number}-{each}", at=number) for each in range(1000)]
        kept.journal.add([AlertChanges(alerts=list(many))], [])
        kept.journal.defer(str(number), fails)
        await kept.journal.write()
    written: list[Changes] = []

    async def note(changes: Changes) -> None:
        written.append(changes)

    kept.store.commit = note  # type: ignore[method-assign]
    await kept.journal.write()

    assert [each.resolved_at for each in written[0].alerts] == [
        number for number in range(5, 25) for _ in range(1000)
    ]


async def test_a_process_goes_on_with_what_is_kept_or_learns_that_the_store_fails() -> None:
    """A store that fails is no store that has nothing."""
    kept = Kept(deadline=0.01)
    await kept.keep(alert())
    found = await kept.journal.load()
    assert found is not None
    assert found.alerts == (alert(),)

    async def load() -> None:
        await anyio.sleep_forever()

    kept.store.load = load  # type: ignore[assignment, method-assign]
    assert await kept.journal.load() is None
    assert kept.reported == ["loading the alert store: TimeoutError()"]


async def test_what_was_over_long_ago_is_forgotten_when_the_store_can() -> None:
    """And where it cannot, that is all."""
    kept = Kept()
    await kept.keep(resolved("old", at=10), resolved("new", at=20))

    await kept.journal.prune(15)
    kept.store.trouble = fails
    await kept.journal.prune(99)

    assert await kept.store.alert("old") is None
    assert await kept.store.alert("new") is not None
    assert kept.reported == ["alert store: StoreError('no disk')"]


def parts(changes: Changes) -> list[Changes]:
    """`changes`, record by record."""
    smaller = split(changes)
    return [each for half in smaller for each in parts(half)] if smaller else [changes]


def test_changes_are_halved_until_each_record_is_alone() -> None:
    """In the order in which one needs the other: an alert comes before what happened to it."""
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


def test_what_cannot_be_halved_has_no_halves() -> None:
    """There is an end to it."""
    assert split(Changes()) == split(Changes(forgotten=("a1",))) == ()


def engine(store: AlertStore, rule: FixedRule | None = None) -> AlertEngine:
    """An engine that tells nobody."""
    return AlertEngine([rule or FixedRule()], [], store=store)


@pytest.mark.anyio
async def test_two_engines_on_one_store_say_so_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """Whether there is anything to keep or not, and with the other's process."""
    store = MemoryAlertStore()
    one, other = engine(store), engine(store)

    for each in (one, other, one, other, one, other):
        await each.evaluate()

    lines = [each for each in caplog.records if "another engine" in each.getMessage()]
    assert [each.levelno for each in lines] == [logging.ERROR] * 2
    assert "give each engine its own store" in lines[0].getMessage()
    assert len({each.args for each in lines}) == 2


def test_workers_that_share_a_database_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has a store of its own on it, as `uvicorn --workers` makes them."""

    async def run() -> None:
        stores = [SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db") for _ in range(2)]
        one, other = map(engine, stores)
        for each in (one, other, one):
            await each.evaluate()
        for store in stores:
            await store.aclose()

    anyio.run(run)

    assert [each.name for each in caplog.records] == ["tokenpulse_mw.alerts"]
    assert "alerts.db')" in caplog.text


@pytest.mark.anyio
async def test_an_engine_that_follows_another_one_is_its_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However the one before has ended, it writes no more."""
    store, rule = MemoryAlertStore(), FixedRule(finding())

    for _ in range(3):
        following = engine(store, rule)
        for _ in range(3):
            await following.evaluate()
            rule.findings = [] if rule.findings else [finding()]

    assert caplog.records == []


@pytest.mark.anyio
async def test_a_store_of_ones_own_need_not_know_engines(caplog: pytest.LogCaptureFixture) -> None:
    """Where it does not say whose round was kept, there is nothing to tell."""

    class Mine(MemoryAlertStore):
        async def commit(self, changes: Changes) -> None:
            await super().commit(changes)

    store = Mine()
    one, other = engine(store), engine(store)
    for each in (one, other, one, other):
        await each.evaluate()

    assert caplog.records == []
