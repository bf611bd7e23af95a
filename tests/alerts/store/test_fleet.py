"""Lease, members and traffic of a fleet, in every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
import pytest

from tokenpulse_mw.alerts.store import (
    Ack,
    AlertStore,
    Changes,
    EngineState,
    Fenced,
    FleetState,
    Leader,
    LeaderState,
    LeaseRequest,
    Member,
    UnknownAlert,
    WindowRecord,
)

from .conftest import Open
from .leadership import batch, beat, commit, leader_of, loaded, process, take, taken_over, waiting
from .samples import ODD, alert, alerts, notification, notifications, resolved, silence, transition

pytestmark = pytest.mark.anyio


def window(slot: int, payload: bytes = b"counts", kind: str = "minute") -> WindowRecord:
    """Return a slot of a window."""
    return WindowRecord(kind, slot, 1, payload)


async def test_first_heartbeat_describes_a_fleet_without_a_leader(opened: Open, kind: str) -> None:
    """A new store has no leader, and its windows have all traffic since it was created."""
    async with opened(wall=lambda: 1000.0) as store:
        state = await beat(store, "p1", through=7)

    assert state == FleetState(
        now=1000.0,
        is_reference=not kind.startswith("memory"),
        epoch=0,
        beat=0,
        holder=None,
        revision=0,
        evaluated_at=None,
        complete_since=1000.0,
        granted=False,
        pushed=0,
        members=(Member(process("p1"), 1000.0, 0, 7),),
    )


async def test_members_are_the_processes_of_the_last_hour(opened: Open) -> None:
    """A process is a member until an hour after its last heartbeat, and again after the next."""
    now = 1000.0
    async with opened(wall=lambda: now) as store:
        old = process("z", started_at=0.5)
        await store.heartbeat(old, batches=(batch(1, "z"),), through=3, lease=None)
        now += 3599
        assert [member.process.name for member in (await beat(store, "a")).members] == ["z", "a"]
        now += 1
        assert [member.process.name for member in (await beat(store, "a")).members] == ["a"]
        state = await beat(store, "z", through=9)

    assert state.members == (
        Member(process("a"), now, 0, 0),
        Member(process("z"), now, 1, 9),
    )


async def test_process_is_described_as_in_its_last_heartbeat(opened: Open) -> None:
    """Each heartbeat replaces the description of the process."""
    changed = replace(process(ODD), rules=(ODD, ""), sinks=(), protocol=2, version=ODD, host=ODD)
    async with opened() as store:
        await beat(store, ODD)
        state = await store.heartbeat(changed, batches=(), through=0, lease=None)

    assert [member.process for member in state.members] == [changed]


async def test_prune_deletes_processes_that_ended_days_ago(opened: Open) -> None:
    """A deleted process is a new member if it sends a heartbeat after all."""
    now = 1000.0
    async with opened(wall=lambda: now) as store:
        await beat(store, "p1", batch(1))
        now += 2 * 86_400
        await store.prune(0)
        assert (await beat(store, "p1")).pushed == 1
        now += 2 * 86_400 + 1
        await store.prune(0)
        state = await beat(store, "p1")

    assert (state.pushed, state.members) == (0, (Member(process("p1"), now, 0, 0),))


async def test_pushed_batches_are_listed_by_process_and_number(opened: Open) -> None:
    """`after` omits the batches that the caller has; payloads may be any bytes."""
    one, two, other = batch(9), batch(10, slot=21), batch(3, ODD)
    async with opened() as store:
        state = await beat(store, "p1", one, two)
        await beat(store, ODD, other)

        assert state.pushed == 0
        assert state.members[0].pushed == 10
        assert await store.batches({}) == (other, one, two)
        assert await store.batches({"p1": 9, ODD: 3, "p2": 7}) == (two,)
        assert await store.batches({"p1": 10}) == (other,)


async def test_many_batches_are_stored_and_read(opened: Open) -> None:
    """A process that was cut off pushes its whole backlog at once."""
    many = [batch(number) for number in range(1, 131)]
    async with opened() as store:
        await beat(store, "p1", *many)

        assert await store.batches({}) == tuple(many)
        assert await store.batches({"p1": 5}) == tuple(many[5:])


async def test_newest_batches_of_a_process_are_kept(opened: Open) -> None:
    """If no process leads, the batches of each process are bounded."""
    async with opened() as store:
        await beat(store, "p1", batch(1))
        await beat(store, "p2", batch(1, "p2"))
        await beat(store, "p1", *(batch(number) for number in range(2, 719)))
        assert len(await store.batches({"p2": 1})) == 718

        await beat(store, "p1", batch(719), batch(721))
        kept = await store.batches({})
        assert [(kept[0].number, kept[-2].number), len(kept)] == [(2, 721), 720]
        state = await taken_over(store)

    assert state.batches == kept


async def test_repeated_heartbeat_stores_nothing_twice(opened: Open) -> None:
    """A heartbeat whose answer was lost is repeated, also with a newer batch behind the old."""
    async with opened() as store:
        await beat(store, "p1", batch(1), batch(2))
        await beat(store, "p1", batch(1), batch(2))
        state = await beat(store, "p1", batch(1), batch(2), batch(5))

        assert state.pushed == 2
        assert await store.batches({}) == (batch(1), batch(2), batch(5))


async def test_batch_pushed_again_after_its_consumption_is_ignored(opened: Open) -> None:
    """A batch that is counted in a window is not stored again, even if it arrives again."""
    async with opened() as store:
        await beat(store, "p1", batch(1), batch(2))
        await commit(store, Changes(consumed=(("p1", 1), ("p1", 2), ("p9", 1))))
        state = await beat(store, "p1", batch(1), batch(2))

        assert state.pushed == 2
        assert await store.batches({}) == ()


async def test_heartbeat_that_arrives_after_a_newer_one_changes_nothing(opened: Open) -> None:
    """A delayed call neither stores batches nor takes back those that the process has pushed."""
    async with opened(wall=lambda: 1000.0) as store:
        before = await beat(store, "p1")
        await beat(store, "p1", batch(1), batch(2), through=21)
        await beat(store, "p1", lease=LeaseRequest("take", before.epoch, before.beat))
        late = LeaseRequest("take", before.epoch, before.beat)
        state = await beat(store, "p1", batch(1), through=20, lease=late)

        assert (state.granted, state.epoch) == (False, 1)
        assert state.members == (Member(process("p1"), 1000.0, 2, 20),)
        assert await store.batches({}) == (batch(1), batch(2))


async def test_lease_is_taken_renewed_and_released(opened: Open) -> None:
    """A new leadership has a new epoch; each use of the lease changes the beat."""
    async with opened() as store:
        first = await take(store, "p1")
        taken = await beat(store, "p2")
        renewed = await beat(store, "p1", lease=LeaseRequest("renew", first.epoch))
        released = await beat(store, "p1", lease=LeaseRequest("release", first.epoch))
        second = await take(store, "p2")

    assert (first, second) == (Leader(1, "p1"), Leader(2, "p2"))
    assert [(state.holder, state.epoch) for state in (taken, renewed, released)] == [
        ("p1", 1),
        ("p1", 1),
        (None, 1),
    ]
    assert renewed.granted
    assert released.granted
    assert taken.beat < renewed.beat < released.beat


async def test_lease_of_a_silent_leader_can_be_taken(opened: Open) -> None:
    """A candidate takes the lease if neither epoch nor beat has changed since it read them."""
    async with opened() as store:
        first = await take(store, "p1")
        seen = await beat(store, "p2")
        state = await beat(store, "p2", lease=LeaseRequest("take", seen.epoch, seen.beat))

        assert (state.granted, state.holder, state.epoch) == (True, "p2", first.epoch + 1)


@pytest.mark.parametrize("action", ["renew", "commit", "claim", "release"])
async def test_lease_that_was_used_is_not_taken(opened: Open, action: str) -> None:
    """Each write of the leader keeps its lease, because it changes the beat."""
    async with opened() as store:
        leader = await take(store, "p1")
        seen = await beat(store, "p2")
        if action == "commit":
            await store.commit(Changes(), leader=leader)
        elif action == "claim":
            await store.claim("unknown", leader=leader)
        else:
            lease = LeaseRequest("renew" if action == "renew" else "release", leader.epoch)
            assert (await beat(store, "p1", lease=lease)).granted
        state = await beat(store, "p2", lease=LeaseRequest("take", seen.epoch, seen.beat))

        assert not state.granted
        assert state.epoch == leader.epoch


async def test_lease_of_an_earlier_leadership_is_neither_renewed_nor_released(
    opened: Open,
) -> None:
    """A former leader cannot change the lease, even if the same process leads again."""
    async with opened() as store:
        first = await take(store, "p1")
        await take(store, "p1")
        second = await take(store, "p2")
        for name, epoch in (("p1", first.epoch), ("p1", second.epoch), ("p2", first.epoch)):
            for request in (LeaseRequest("renew", epoch), LeaseRequest("release", epoch)):
                state = await beat(store, name, lease=request)
                assert (state.granted, state.epoch, state.holder) == (False, second.epoch, "p2")


async def test_race_for_the_lease_has_one_winner(opened: Open) -> None:
    """Of eight processes that have read the same lease, exactly one becomes the leader."""
    states: list[FleetState] = []

    async def race(store: AlertStore, name: str, lease: LeaseRequest) -> None:
        states.append(await beat(store, name, lease=lease))

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened()) for _ in range(8)]
        for epoch in range(1, 4):
            seen = await beat(stores[0])
            states.clear()
            async with anyio.create_task_group() as tasks:
                for number, store in enumerate(stores):
                    lease = LeaseRequest("take", seen.epoch, seen.beat)
                    tasks.start_soon(race, store, f"p{number}", lease)

            assert [state.granted for state in states].count(True) == 1
            assert {state.epoch for state in states if state.granted} == {epoch}


async def stored(store: AlertStore) -> tuple[LeaderState, FleetState]:
    """Return everything that a leader writes."""
    fleet = await beat(store)
    return await taken_over(store), replace(fleet, now=0, members=())


FULL = Changes(
    (alert("new"),),
    (transition("new"),),
    (notification("new"),),
    ("a1",),
    (window(5),),
    {"minute": 4},
    (("p1", 1),),
    200.0,
    100.0,
)
WRITES: dict[str, Callable[[AlertStore, Leader], Awaitable[object]]] = {
    "commit": lambda store, leader: store.commit(FULL, leader=leader),
    "claim": lambda store, leader: store.claim("n1", leader=leader),
    "take_over": lambda store, leader: store.take_over(leader),
}


@pytest.mark.parametrize("write", WRITES)
async def test_former_leader_is_fenced(opened: Open, write: str) -> None:
    """A call of a process that no longer leads raises Fenced and stores nothing."""
    async with opened(wall=lambda: 1000.0) as store:
        former = await take(store, "p1")
        changes = Changes((alert(),), (), (notification(),), (), (window(3),))
        await store.commit(changes, leader=former)
        await beat(store, "p1", batch(1))
        leader = await take(store, "p2")
        before = await stored(store)

        for stale in (former, Leader(leader.epoch, "p1"), Leader(former.epoch, "p2")):
            with pytest.raises(Fenced, match="the process no longer leads the fleet"):
                await WRITES[write](store, stale)
        assert await stored(store) == before

        await beat(store, "p2", lease=LeaseRequest("release", leader.epoch))
        with pytest.raises(Fenced):
            await WRITES[write](store, leader)


async def test_commit_stores_everything_in_one_transaction(opened: Open) -> None:
    """Alerts, notifications and windows are stored together, and consumed batches are deleted."""
    async with opened() as store:
        await beat(store, "p1", batch(1), batch(2))
        windows = window(3), window(4), window(3, b"", "state")
        await commit(store, Changes((alert(),), windows=windows))
        revision = await commit(store, FULL)
        state = await taken_over(store)

    assert state == LeaderState(
        EngineState(revision, (alert("new"),)),
        (notification("new"),),
        (window(4), window(5), window(3, b"", "state")),
        (batch(2),),
        200.0,
        100.0,
    )


async def test_rejected_commit_stores_nothing(opened: Open) -> None:
    """A commit that fails after its windows were written leaves all as it was."""
    async with opened(wall=lambda: 1000.0) as store:
        await beat(store, "p1", batch(1))
        leader = await take(store, "p1")
        before = await stored(store)
        stray = replace(FULL, transitions=(transition("stray"),))
        with pytest.raises(UnknownAlert):
            await store.commit(stray, leader=leader)

        assert await stored(store) == before


async def test_windows_are_replaced_as_wholes(opened: Open) -> None:
    """A slot that is committed again has the new contents, so that a commit can be repeated."""
    async with opened() as store:
        await commit(store, Changes(windows=(window(1, b"old"), window(2))))
        newer = Changes(windows=(replace(window(1, b"new"), protocol=2),))
        for _ in range(2):
            await commit(store, newer)

        assert (await taken_over(store)).windows == (*newer.windows, window(2))


async def test_expired_slots_are_deleted(opened: Open) -> None:
    """Slots below the first that is needed are deleted, of each kind by itself."""
    async with opened() as store:
        slots = tuple(window(slot, kind=kind) for kind in ("day", "minute") for slot in (1, 2, 3))
        await commit(store, Changes(windows=slots))
        await commit(store, Changes(expired={"minute": 3, "day": 2, "other": 9}))

        kept = [(record.kind, record.slot) for record in (await taken_over(store)).windows]
        assert kept == [("day", 2), ("day", 3), ("minute", 3)]


async def test_times_of_the_evaluation_are_those_last_committed(opened: Open) -> None:
    """A commit without the times of an evaluation keeps them; they survive a restart."""
    async with opened() as store:
        await commit(store, Changes(evaluated_at=200.5, complete_since=50.25))
        await commit(store, Changes())

    async with opened() as store:
        fleet, state = await beat(store), await taken_over(store)
        assert (fleet.evaluated_at, fleet.complete_since) == (200.5, 50.25)
        assert (state.evaluated_at, state.complete_since) == (200.5, 50.25)


async def test_fleet_survives_a_restart(opened: Open) -> None:
    """Lease, batches, windows and settings are there after all processes have ended."""
    async with opened() as store:
        leader = await take(store, "p1")
        await store.commit(Changes(windows=(window(1),)), leader=leader)
        await beat(store, "p1", batch(7))
        await store.set_setting("log_level", {"root": "DEBUG"}, by="ada", at=1)

    async with opened() as store:
        state = await store.take_over(leader)
        assert (state.windows, state.batches) == ((window(1),), (batch(7),))
        assert state.state.settings == {"log_level": {"root": "DEBUG"}}


async def test_claim_counts_an_attempt_that_begins(opened: Open) -> None:
    """A claim keeps the due time and the error; dead and unknown notifications are ignored."""
    async with opened() as store:
        await commit(store, notifications("n1", "n2", "n3"))
        await store.postponed("n1", 3, 150, "timeout")
        await store.dead("n2", 160, "410 Gone")
        leader = await leader_of(store)
        for name in ("n1", "n2", "unknown"):
            await store.claim(name, leader=leader)

        claimed = notification("n1", attempts=4, due_at=150.0, last_error="timeout")
        assert await waiting(store) == (claimed, notification("n3"))
        assert (await store.dead_letters(1))[0].notification.attempts == 0


CONTROLS: dict[str, Callable[[AlertStore], Awaitable[object]]] = {
    "acknowledge": lambda store: store.acknowledge("a1", Ack("ada", 1)),
    "set_thresholds": lambda store: store.set_thresholds({}, expected=None, by="ada", at=1),
    "add_silence": lambda store: store.add_silence(silence()),
    "remove_silence": lambda store: store.remove_silence("s1"),
    "set_setting": lambda store: store.set_setting("name", 1, by="ada", at=1),
    "commit": lambda store: commit(store, alerts(alert())),
    "resolve": lambda store: commit(store, alerts(resolved())),
    "forget": lambda store: commit(store, Changes(forgotten=("a1",))),
}


@pytest.mark.parametrize("control", CONTROLS)
async def test_each_change_raises_the_revision(opened: Open, control: str) -> None:
    """A process reads the state again if a heartbeat returns another revision."""
    async with opened() as store:
        await commit(store, alerts(alert()))
        known = (await beat(store)).revision
        assert await store.load(known) is None
        await CONTROLS[control](store)

        assert (await beat(store)).revision == known + 1
        state = await store.load(known)
        assert state is not None
        assert state.revision == known + 1
        assert await store.load(known + 1) is None


async def test_heartbeats_deliveries_and_windows_keep_the_revision(opened: Open) -> None:
    """A change that other processes do not need does not make them read the state again."""
    async with opened() as store:
        await commit(store, notifications("n1", "n2"))
        await beat(store, "p1", batch(1))
        revision = await commit(store, Changes(windows=(window(1),), consumed=(("p1", 1),)))
        await store.claim("n1", leader=await leader_of(store))
        await store.postponed("n1", 1, 9, "timeout")
        await store.delivered("n1")
        await store.dead("n2", 9, "410 Gone")
        await store.prune(1)

        assert revision == 0
        assert (await beat(store)).revision == 0


async def test_setting_is_replaced(opened: Open) -> None:
    """The last value of a setting is loaded; it may be any JSON value and any name."""
    value = {"list": [1, None, ODD]}
    async with opened() as store:
        await store.set_setting(ODD, "first", by="ada", at=1)
        await store.set_setting(ODD, value, by=ODD, at=2)
        await store.set_setting("null", None, by="bob", at=3)
        value["list"].append(2)

        assert (await loaded(store)).settings == {ODD: {"list": [1, None, ODD]}, "null": None}


async def test_invalid_setting_is_rejected(opened: Open) -> None:
    """A value that is not JSON and a time that is not finite are not stored."""
    async with opened() as store:
        with pytest.raises(ValueError, match="value must be plain JSON"):
            await store.set_setting("name", float("nan"), by="ada", at=1)
        with pytest.raises(ValueError, match="at must be a finite number"):
            await store.set_setting("name", 1, by="ada", at=float("inf"))

        assert await loaded(store) == EngineState()
