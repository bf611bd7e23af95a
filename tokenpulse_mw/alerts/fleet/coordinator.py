"""Part of an engine in its fleet: heartbeats, leadership, traffic and shared state."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio

from ...lifespan import LoopLock
from ..controls import Controls
from ..delivery import Outbox
from ..evaluator import Evaluator
from ..silences import Silences
from ..steps import Steps, in_steps
from ..store.protocol import AlertStore, Fenced, Leader, LeaderState, StoreError
from ..store.records import Ack
from ..store_writer import StoreWriter
from ..thresholds import Thresholds
from ..timeouts import Recovered, Report, call_with_timeout
from .leadership import Leadership
from .member import FleetMember

_PREVIEW_SECONDS = 10.0  # for which the windows of another process are kept
STORE_SECONDS = 10.0  # for one call of the store

logger = logging.getLogger("tokenpulse_mw.alerts")


class Coordinator:
    """Decides whether this process evaluates, and keeps it in step with its fleet.

    Args:
        store: The store that all processes share.
        member: The membership of this process.
        thresholds: Initial thresholds.
        silences: The active silences.
        new_evaluator: Returns a new evaluator with some thresholds.
        writer: Writes changes to the store while this process leads.
        outbox: Delivers notifications while this process leads.
        clock: Returns monotonic seconds.
        notify: Called with the name of a hook of the listeners, and its arguments.
        report: Called with a component name and the error of each failure.
        recovered: Called with the same name after a success.

    Attributes:
        member: The argument.
        writer: The argument.
        controls: Thresholds, silences and acknowledgements that all processes share.
        deciding: Lock that is held while the leadership changes, or reads or evaluates traffic.
        leadership: Alerts and windows of the fleet; None if another process leads.
        took_over: Set when this process has taken over.
    """

    def __init__(
        self,
        store: AlertStore,
        member: FleetMember,
        *,
        thresholds: Thresholds,
        silences: Silences,
        new_evaluator: Callable[[Thresholds], Evaluator],
        writer: StoreWriter,
        outbox: Outbox,
        clock: Callable[[], float],
        notify: Callable[..., None],
        report: Report,
        recovered: Recovered,
    ) -> None:
        self.member = member
        self.deciding = LoopLock(fast_acquire=True)  # an evaluation takes many steps
        self.leadership: Leadership | None = None
        self.took_over = anyio.Event()
        self._overflowed = self._late = 0  # of earlier leaderships
        self._store = store
        self._new_evaluator = new_evaluator
        self._outbox = outbox
        self._clock = clock
        self._notify = notify
        self._report, self._recovered = report, recovered
        self._joining, self._previewing = LoopLock(fast_acquire=True), LoopLock()
        self._preview: tuple[float, Leadership] | None = None
        self.writer = writer
        self.controls = Controls(
            thresholds=thresholds,
            silences=silences,
            store_writer=writer,
            apply=self._apply_thresholds,
            set_acks=self._set_acks,
            settings_changed=partial(notify, "on_settings"),
            call=self._call_store,
            deciding=self.deciding,
            wall=lambda: member.at,
        )

    def reset(self, thresholds: Thresholds, *, is_store_empty: bool) -> None:
        """Discard everything that the end of the process would discard.

        Args:
            thresholds: Initial thresholds.
            is_store_empty: The store has lost everything, so this process joins it again.
        """
        self.leadership = self._preview = None
        self._outbox.reset()
        self.controls.reset(thresholds)
        self.member.reset(thresholds, is_store_empty=is_store_empty)

    @property
    def leader(self) -> Leader | None:
        """The leadership in the store for which this process evaluates, or None."""
        return None if self.leadership is None else self.leadership.leader

    @property
    def overflowed(self) -> int:
        """Number of overflows in all leaderships of this process."""
        leadership = self.leadership
        return self._overflowed + (0 if leadership is None else leadership.evaluator.overflowed)

    @property
    def late(self) -> int:
        """Number of buckets that arrived after the evaluation that they belong to."""
        return self._late + (0 if self.leadership is None else self.leadership.late)

    async def heartbeat(self, *, partial_slot: bool = False) -> None:
        """Take part in the fleet: send the traffic, follow the lease, and read what is new."""
        async with self._joining():
            succeeded = await self.member.heartbeat(partial_slot=partial_slot)
            self._notify("on_heartbeat", "ok" if succeeded else "error")
            if not succeeded:
                self._continue_alone()
                return
            stepped_back, self.member.stepped_back = self.member.stepped_back, False
            if self.leadership is not None and stepped_back:
                self.leadership.is_local = True  # its windows count nothing until that time
            await self._follow_lease()
            if self.leadership is not None:
                self.member.report_differences()
            state = self.member.state
            if state is not None and state.revision != self.controls.revision:
                await self.controls.refresh()
            await self._read_batches()

    def _continue_alone(self) -> None:
        """Evaluate without a store that has never responded, once that may be done."""
        if self.leadership is None and self.member.may_continue_alone(led=False):
            logger.warning("alert store not available: this process evaluates alone")
            self.leadership = self._new_leadership()

    async def _follow_lease(self) -> None:
        """Start or stop to lead."""
        leader, leadership = self.member.leader, self.leadership
        if leadership is not None and leadership.leader is None:
            # It evaluates since before its first heartbeat; alone, it may be the next leader.
            if self.member.has_peers:
                self.step_down()
        elif leadership is not None and leadership.leader != leader:
            self.step_down()
        elif leadership is not None and not leadership.is_local:
            return
        if leader is not None:
            stored = await self._call_store(partial(self._take_over, leader))
            if stored is not None:
                with anyio.CancelScope(shield=True):  # a partial restore would lose the rest
                    await self._restore(leader, stored)

    async def _take_over(self, leader: Leader) -> LeaderState | None:
        try:
            return await self._store.take_over(leader)
        except Fenced:
            self.member.fenced()
            return None

    async def _restore(self, leader: Leader, stored: LeaderState) -> None:
        now, at, leadership = self._clock(), self.member.at, self.leadership
        fleet_time = self.member.now
        async with self.deciding():
            if leadership is not None and leadership.leader == leader:
                await in_steps(leadership.restore_windows(stored, now, at, fleet_time=fleet_time))
                await in_steps(leadership.receive(stored.batches, self.member.now))
                return
            await in_steps(self.controls.adopt(stored.state))
            if leadership is None:
                leadership = self._new_leadership()
            changes = await in_steps(
                leadership.restore(leader, stored, now, at, fleet_time=fleet_time)
            )
            await in_steps(leadership.receive(stored.batches, self.member.now))
            self.leadership, self._preview = leadership, None
        sinks, firing = self.member.known_sinks(), leadership.evaluator.tracker.firing()
        await in_steps(self._outbox.resume(stored.notifications, sinks))
        await self._outbox.publish(changes, None, firing, at)
        self.took_over.set()
        logger.log(
            logging.INFO if self.member.shares_store else logging.DEBUG,
            "this process leads the alert engines of its store: epoch=%d alerts=%d",
            leader.epoch,
            len(stored.state.alerts),
        )

    def step_down(self) -> None:
        """Stop evaluating and delivering: another process leads, or will."""
        if self.leadership is not None:
            self._overflowed, self._late = self.overflowed, self.late
            self.leadership = None
            self.controls.revision = None  # `controls.firing` lacks this process's own changes
            self._outbox.reset()

    def fenced(self) -> None:
        """Stop leading after the store has rejected a write."""
        self.member.fenced()
        self.step_down()

    async def _read_batches(self) -> None:
        """Read and count the traffic of all processes."""
        leadership = self.leadership
        if leadership is not None:
            read = partial(self._store.batches, leadership.known_batches)
            batches = await self._call_store(read)
            if batches is None or leadership.is_local:  # its windows have own traffic already
                return
            # Shielded: traffic that is received and not counted would be lost.
            with anyio.CancelScope(shield=True):
                async with self.deciding():
                    leadership.forget_processes(self.member.live(math.inf))
                    await in_steps(leadership.receive(batches, self.member.now))
                    await in_steps(self.count(leadership, at_once=False))
        self.member.confirm_read()

    def count(self, leadership: Leadership, *, at_once: bool) -> Steps[None]:
        """Count the traffic that was read, and move the windows on.

        Args:
            leadership: The leadership.
            at_once: Count everything until now; otherwise until all processes have sent theirs.
        """
        member = self.member
        if not member.is_connected and member.may_continue_alone(led=True):
            yield from leadership.count(None)
            yield from leadership.count_local(member.unread())
            leadership.evaluator.traffic.advance(member.now)
        elif at_once:
            yield from leadership.count(None)
            leadership.evaluator.traffic.advance(member.now)
        else:
            slot = member.watermark()
            yield from leadership.count(slot)
            leadership.evaluator.traffic.advance((slot + 1) * member.options.heartbeat)

    def _new_leadership(self) -> Leadership:
        evaluator = self._new_evaluator(self.controls.thresholds)
        return Leadership(evaluator, bucket_seconds=self.member.options.heartbeat)

    def evaluating(self) -> Leadership | None:
        """Return the leadership if this process may evaluate and deliver now."""
        leadership = self.leadership
        if leadership is None:
            return None
        if leadership.leader is not None and leadership.leader == self.member.leader:
            return leadership
        return leadership if self.member.may_continue_alone(led=True) else None

    async def load_preview(self) -> Leadership:
        """Return the windows of the leader, from the store; they are kept for some seconds."""
        async with self._previewing():
            now, at = self._clock(), self.member.at
            if self._preview is None or now - self._preview[0] > _PREVIEW_SECONDS:
                state = self.member.state
                leader = Leader(0, "") if state is None else Leader(state.epoch, state.holder or "")
                try:
                    stored = await self._store.take_over(leader)
                except Fenced:
                    raise StoreError("no process leads the alert engines yet: try again") from None
                leadership = self._new_leadership()
                fleet_time = self.member.now
                await in_steps(leadership.restore_windows(stored, now, at, fleet_time=fleet_time))
                await in_steps(leadership.receive(stored.batches, fleet_time))
                await in_steps(leadership.count(None))
                leadership.evaluator.traffic.advance(self.member.now)
                self._preview = now, leadership
            return self._preview[1]

    async def claim(self, notification_id: str) -> float:
        """Return the seconds for which this process may deliver now; 0 if it may not.

        Args:
            notification_id: Id of a notification, whose attempt is counted; or an empty text.
        """
        leadership = self.evaluating()
        if leadership is None:
            return 0
        if leadership.leader is None or not self.member.is_connected:
            return self._seconds_alone()
        if not await self.writer.write():
            return 0
        # If this process ended after the delivery, the next leader would decide the same again.
        if self.writer.has(notification_id) and self.member.has_peers:
            return 0
        asked = self._clock()
        try:
            await call_with_timeout(
                STORE_SECONDS,
                partial(self._store.claim, notification_id, leader=leadership.leader),
            )
        except Fenced:
            self.fenced()
            return 0
        except Exception as error:  # noqa: BLE001 - the sink is attempted later
            self._report("claim in the alert store", error)
            return self._seconds_alone()
        self._recovered("claim in the alert store")
        self.member.renewed(asked)
        # A later end could follow deliveries of the next leader.
        return self.member.seconds_left if self.member.has_peers else math.inf

    def _seconds_alone(self) -> float:
        return math.inf if self.member.may_continue_alone(led=True) else 0

    def _apply_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        self._preview = None
        self.member.aggregator.set_thresholds(thresholds)
        if self.leadership is not None:
            yield from self.leadership.evaluator.set_thresholds(thresholds)

    def _set_acks(self, acks: Mapping[str, Ack | None]) -> Steps[None]:
        if self.leadership is not None:
            yield from self.leadership.evaluator.tracker.set_acks(acks)

    async def _call_store(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of a call of the store; None if it fails."""
        try:
            result = await call_with_timeout(STORE_SECONDS, call)
        except Exception as error:  # noqa: BLE001 - alerts continue without the store
            self._report("reading the alert store", error)
            return None
        self._recovered("reading the alert store")
        return result
