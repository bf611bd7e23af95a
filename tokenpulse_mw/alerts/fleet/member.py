"""Membership of this process in the fleet of its store."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4

from ...exchange import Exchange
from ...lifespan import LoopLock
from ..steps import in_steps
from ..store.protocol import AlertStore, FleetState, Leader
from ..store.records import Batch, Member, Process
from ..thresholds import Thresholds
from ..timeouts import Recovered, Report, call_with_timeout
from ..traffic.aggregator import TrafficAggregator
from ..traffic.bucket import PROTOCOL, Bucket, encode_bucket
from .backlog import Backlog
from .clock import FleetClock
from .inbox import watermark
from .lease import Lease
from .options import Fleet

_COMPONENT = "heartbeat of the alert store"
_MAX_LOCAL_BUCKETS = 60
_MAX_HEARTBEAT_SECONDS = 4.0  # timeout of the call
_JITTERS_PER_HEARTBEAT = 5
_MARGINS_PER_LEASE = 15
_THRESHOLDS_HEARTBEATS = 4  # for which other thresholds must differ
_RETRY_SECONDS = (1, 2, 4, 5)  # after heartbeats that failed in a row

logger = logging.getLogger("tokenpulse_mw.alerts")


class FleetMember:
    """Counts the traffic of this process, sends it to the store, and takes part in the lease.

    Args:
        store: The store that all processes share.
        options: Options of the fleet.
        rules: Names of the rules.
        sinks: Names of the sinks.
        thresholds: Initial thresholds of the counts.
        max_subjects: Maximum number of subjects of each kind in a window.
        model_label: Returns the label of the model of an exchange, by which usage is counted.
        clock: Returns monotonic seconds.
        wall: Returns seconds since the epoch.
        report: Called with a component name and the error of each failed heartbeat.
        recovered: Called with the same name after a success.

    Attributes:
        options: Options of the fleet.
        aggregator: Counts the traffic of this process.
        backlog: Traffic that is not stored yet.
        state: The fleet at the last heartbeat; None before the first one.
        stepped_back: The clock of the store was set back, so the windows of a leader have traffic
            of a later time than now; the coordinator resets it.
    """

    def __init__(
        self,
        store: AlertStore,
        options: Fleet,
        *,
        rules: Sequence[str],
        sinks: Sequence[str],
        thresholds: Thresholds,
        max_subjects: int,
        model_label: Callable[[Exchange], str],
        clock: Callable[[], float],
        wall: Callable[[], float],
        report: Report,
        recovered: Recovered,
    ) -> None:
        self.options = options
        self._model_label = model_label
        self._store = store
        self._names = tuple(rules), tuple(sinks)
        self._max_subjects = max_subjects
        self._clock, self._wall = clock, wall
        self._report, self._recovered = report, recovered
        self._timeout = min(_MAX_HEARTBEAT_SECONDS, options.lease / 3.5)
        self._beating = LoopLock(fast_acquire=True)
        self._jitter = 0.0
        self._rejoin()
        self._count_from_zero(thresholds)

    def reset(self, thresholds: Thresholds, *, is_store_empty: bool) -> None:
        """Discard the counts.

        Args:
            thresholds: Initial thresholds of the counts.
            is_store_empty: The store has lost everything, so this process joins it again.
        """
        if is_store_empty:
            self._rejoin()
        else:
            self.backlog.clear()
        self._count_from_zero(thresholds)

    def _rejoin(self) -> None:
        """Be a new process from the next heartbeat on."""
        now = self._clock()
        self.backlog = Backlog(bucket_seconds=self.options.heartbeat, max_names=self._max_subjects)
        self._fleet_clock = FleetClock(self._wall() - now)
        self.state: FleetState | None = None
        self._process: Process | None = None
        self._lease = self._new_lease("")
        self._failures = 0
        self._contacted_at = self._failing_since = now
        self._deviating = dict[tuple[object, ...], int]()
        self.stepped_back = False

    def _count_from_zero(self, thresholds: Thresholds) -> None:
        self._unread = deque[tuple[int, Bucket]](maxlen=_MAX_LOCAL_BUCKETS)
        self._sealed = 0  # number of buckets
        self.aggregator = TrafficAggregator(
            thresholds,
            max_subjects=self._max_subjects,
            bucket_seconds=self.options.heartbeat,
            offset=self._fleet_clock.offset,
            sealed=self._seal,
            model_label=self._model_label,
        )

    @property
    def name(self) -> str:
        """The name of this process; empty before the first heartbeat."""
        return "" if self._process is None else self._process.name

    @property
    def leader(self) -> Leader | None:
        """The leadership of this process in the store, or None."""
        return self._lease.leader if self._lease.holds(self._clock()) else None

    @property
    def seconds_left(self) -> float:
        """Seconds until another process may lead."""
        return self._lease.until - self._clock()

    @property
    def now(self) -> float:
        """Fleet time: the time of the store, in seconds since the epoch."""
        return self._clock() + self.aggregator.offset

    @property
    def at(self) -> float:
        """Time for display and storage: that of the store if all processes have it."""
        return self.now if self.shares_store else self._wall()

    @property
    def shares_store(self) -> bool:
        """True if the store may have other processes, so that its clock is the fleet's."""
        return self.state is not None and self.state.is_reference

    def live(self, seconds: float) -> list[Member]:
        """Return the processes seen in the last `seconds` before the last heartbeat."""
        state = self.state
        if state is None:
            return []
        return [member for member in state.members if state.now - member.seen_at <= seconds]

    @property
    def is_connected(self) -> bool:
        """True if the last heartbeat succeeded."""
        return not self._failures

    @property
    def has_peers(self) -> bool:
        """True if another process was alive at the last heartbeat."""
        return any(member.process.name != self.name for member in self.live(self.options.lease))

    def may_continue_alone(self, *, led: bool) -> bool:
        """Return True if the store has failed for so long that this process needs no lease.

        Args:
            led: This process was the last leader.
        """
        if not self._failures or self.options.alone_after is None or not self.options.leads:
            return False
        # A process that was stopped does not know what has happened since its last heartbeat.
        is_aware = self._failing_since - self._contacted_at <= self.options.lease
        if self.state is not None and not self.has_peers and is_aware:
            return led
        waited = self._clock() - self._failing_since
        return (led or self.state is None) and waited >= self.options.alone_after

    def unread(self) -> list[tuple[int, Bucket]]:
        """Return the newest traffic that no leader has read from the store, by number."""
        return list(self._unread)

    def confirm_read(self) -> None:
        """Drop the traffic that is in the store: a leader has read it."""
        while len(self._unread) > self.backlog.waiting:
            self._unread.popleft()

    async def heartbeat(self, *, partial_slot: bool = False, leave: bool = False) -> bool:
        """Send the traffic to the store, and renew, request or release the lease.

        Args:
            partial_slot: Send the traffic of the current slot too, which has not ended.
            leave: Release the lease.

        Returns:
            False if the store failed; the next heartbeat sends the same again.
        """
        async with self._beating():
            self.aggregator.seal(self._clock(), partial=partial_slot)
            self._lease.closing = leave
            succeeded = self.state is not None or await self._send()  # the fleet time comes first
            succeeded = succeeded and await self._send()
            if succeeded and self._lease.next_attempt_at <= self._clock():  # the lease is free
                succeeded = await self._send()
            while succeeded and self.backlog.is_waiting:
                succeeded = await self._send()  # the first one has repeated earlier batches
            return succeeded

    async def _send(self) -> bool:
        process, batches, through = self._identity(), tuple[Batch, ...](), 0
        if self.state is not None:
            batches = await in_steps(
                self.backlog.batches(process.name, encode_bucket, protocol=self._protocol())
            )
            through = self.backlog.through(self.aggregator.through(self._clock()))
        asked = self._clock()
        call = partial(
            self._store.heartbeat,
            process,
            batches=batches,
            through=through,
            lease=self._lease.request(asked),
        )
        try:
            state: FleetState = await call_with_timeout(self._timeout, call)
        except Exception as error:  # noqa: BLE001 - requests and alerts continue
            if not self._failures:
                self._failing_since = asked
            self._failures += 1
            self._lease.missed()
            self._report(_COMPONENT, error)
            return False
        self._recovered(_COMPONENT)
        self._heard(state, asked, self._clock())
        return True

    def seconds_to_next(self) -> float:
        """Return the seconds to the next heartbeat."""
        if self._failures:
            return _RETRY_SECONDS[min(self._failures, len(_RETRY_SECONDS)) - 1]
        now = self._clock()
        at = self._fleet_clock.schedule(
            now, bucket_seconds=self.options.heartbeat, jitter=self._jitter
        )
        return max(0.0, min(at, self._lease.next_attempt_at) - now)

    def known_sinks(self) -> set[str]:
        """Return the names of the sinks of all live processes."""
        members = self.live(self.options.lease)
        return {sink for member in members for sink in member.process.sinks}

    def watermark(self) -> int:
        """Return the slot up to which all live processes have sent their traffic."""
        seconds = self.options.heartbeat
        through = [member.through for member in self.live(2 * seconds)]
        return watermark(through, self.now, bucket_seconds=seconds, patience=2 * seconds)

    def renewed(self, asked: float) -> None:
        """Extend the lease after a fenced call that was sent at `asked` and succeeded."""
        self._lease.renewed(asked)

    def fenced(self) -> None:
        """Stop leading: another process does."""
        self._lease.lose()

    def report_differences(self) -> None:
        """Log each configuration that processes of this version have instead of ours."""
        ours, deviating = self._identity(), dict[tuple[object, ...], int]()
        for member in self.live(self.options.lease):
            process = member.process
            names = ours.differences(process)
            kind = process.rules, process.sinks, process.profile
            if "version" in names or not names or kind in deviating:
                continue
            deviating[kind] = self._deviating.get(kind, 0) + 1
            # All processes use new thresholds within two heartbeats.
            if deviating[kind] == (_THRESHOLDS_HEARTBEATS if names == ["thresholds"] else 1):
                logger.error(
                    "processes of one alert store have different %s, so alerts depend on which "
                    "of them leads (logged once): configure them alike, or give each gateway "
                    "its own database: process=%s rules=%s sinks=%s %s; this process=%s rules=%s "
                    "sinks=%s %s",
                    " and ".join(names),
                    *_configuration(process),
                    *_configuration(ours),
                )
        self._deviating = deviating

    def _identity(self) -> Process:
        if self._process is not None and self._process.pid != os.getpid():
            self._rejoin()  # after a fork
        if self._process is None:
            host, pid = socket.gethostname(), os.getpid()
            rules, sinks = self._names
            name = f"{host}:{pid}:{uuid4().hex[:8]}"
            self._process = Process(
                name,
                host,
                pid,
                _version(),
                PROTOCOL,
                rules,
                sinks,
                self.options.leads,
                self._wall(),
                "",
            )
            self._lease = self._new_lease(name)
            # After a fork, so that the workers of a server do not send all at once.
            self._jitter = random.random() * self.options.heartbeat / _JITTERS_PER_HEARTBEAT
        profile = f"heartbeat={self.options.heartbeat} {self.aggregator.profile}"
        return replace(self._process, profile=profile)

    def _new_lease(self, name: str) -> Lease:
        duration = self.options.lease
        return Lease(
            process=name,
            protocol=PROTOCOL,
            duration=duration,
            margin=duration / _MARGINS_PER_LEASE,
            leads=self.options.leads,
        )

    def _seal(self, bucket: Bucket) -> None:
        self._sealed += 1
        self.backlog.add(bucket)
        self._unread.append((self._sealed, bucket))

    def _heard(self, state: FleetState, asked: float, heard: float) -> None:
        if state.pushed < self.backlog.pushed:
            self._has_lost(f"batches {state.pushed + 1} to {self.backlog.pushed}")
        self.backlog.stored()
        self._failures, self._contacted_at = 0, heard
        if self._lease.observe(state, asked=asked, heard=heard):
            self._has_lost("writes of a leader")
        if state.is_reference:
            step = self._fleet_clock.heard(asked, heard, state.now)
            if step:
                logger.warning("clock of the alert store has changed: seconds=%+.1f", step)
                self.stepped_back |= step < 0
            self._follow_clock(heard)
        self.state = state

    def _follow_clock(self, now: float) -> None:
        offset = self._fleet_clock.offset
        moved = offset - self.aggregator.offset
        if self.state is None:  # nothing was sent yet
            self.backlog.move(moved)
        if self.state is None or abs(moved) > self.options.heartbeat:
            self.aggregator.move(now, offset)
        else:
            self.aggregator.offset = offset

    def _protocol(self) -> int:
        """Return the newest protocol that all live processes read."""
        protocols = [member.process.protocol for member in self.live(self.options.lease)]
        return max(min([PROTOCOL, *protocols]), PROTOCOL - 1)

    def _has_lost(self, what: str) -> None:
        logger.warning(
            "alert store has lost data that it had stored, as after a failover to a replica: %s",
            what,
        )


def _configuration(process: Process) -> tuple[str, ...]:
    return process.name, ",".join(process.rules), ",".join(process.sinks), process.profile


def _version() -> str:
    try:
        return version("tokenpulse-mw")
    except PackageNotFoundError:  # a copy of the source that is not installed
        return "unknown"
