"""Alert store in memory."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import nlargest
from itertools import count
from typing import Any

from ...validation import check_integer
from ..steps import STEP, Steps, batches, in_steps, mapped
from .limits import LimitWindow, LimitWindows, most_used
from .paging import Position, accepted_values, from_cursor, page, position_of
from .protocol import (
    LISTED_SECONDS,
    MAX_BATCHES,
    MAX_TRANSITIONS,
    STORED_SECONDS,
    Changes,
    Conflict,
    EngineState,
    Fenced,
    FleetState,
    Leader,
    LeaderState,
    LeaseRequest,
    Page,
    SamplePage,
    UnknownAlert,
    check_limit,
)
from .records import (
    Ack,
    AlertRecord,
    Batch,
    DeadLetter,
    Json,
    Member,
    Notification,
    Process,
    Severity,
    Silence,
    StateFilter,
    ThresholdsVersion,
    TransitionRecord,
    WindowRecord,
    check_finite,
    json_copy,
)
from .usage import MemoryUsage, UsageQuery, UsageRecord, UsageRevision


class MemoryAlertStore:
    """`AlertStore` in memory, lost when the process ends; runs on asyncio and trio.

    It keeps the usage of the last 48 hours, at most 50,000 rows.

    Args:
        max_history: Maximum number of resolved alerts, of dead letters, and of versions of
            thresholds.
        wall: Returns seconds since the epoch; `load` omits silences that have ended.

    Raises:
        ValueError: `max_history` is below 1.
    """

    def __init__(self, *, max_history: int = 1000, wall: Callable[[], float] = time.time) -> None:
        self._max_history = check_integer("max_history", max_history)
        self._wall = wall
        self.clear()

    def clear(self) -> None:
        """Remove everything, as in a new process."""
        self._alerts: dict[str, AlertRecord] = {}
        # By id of the alert; the inner dict is an ordered set.
        self._transitions: dict[str, dict[TransitionRecord, None]] = {}
        self._resolved_at: dict[str, float] = {}
        self._waiting: dict[str, tuple[int, Notification]] = {}
        # Sort key (time and number of the notification) and dead letter, by id.
        self._dead: dict[str, tuple[float, int, DeadLetter]] = {}
        self._numbers = count()  # of the notifications
        self._silences: dict[str, Silence] = {}
        self._thresholds: deque[ThresholdsVersion] = deque(maxlen=self._max_history)
        self._settings: dict[str, Any] = {}
        self._epoch, self._beat, self._revision = 0, 0, 0
        self._holder: str | None = None
        self._evaluated_at: float | None = None
        self._complete_since = self._wall()
        self._members: dict[str, Member] = {}
        self._batches: dict[tuple[str, int], Batch] = {}
        self._windows: dict[tuple[str, int], WindowRecord] = {}
        self._usage = MemoryUsage()
        self._limits: dict[tuple[str, str], tuple[LimitWindow, ...]] = {}

    async def heartbeat(
        self,
        process: Process,
        /,
        *,
        batches: Sequence[Batch],
        through: int,
        lease: LeaseRequest | None,
    ) -> FleetState:
        """Store the traffic of a process, change the lease, and return the fleet."""
        now, name = self._wall(), process.name
        granted = lease is not None and self._change_lease(name, lease)
        before = self._members.get(name)
        pushed = 0 if before is None else before.pushed
        new = [batch for batch in batches if batch.number > pushed]
        if new:
            self._batches |= {
                (batch.process, batch.number): replace(batch, usage=()) for batch in new
            }
            self._usage.add(record for batch in new for record in batch.usage)
            oldest = new[-1].number - MAX_BATCHES
            for key in [key for key in self._batches if key[0] == name and key[1] <= oldest]:
                del self._batches[key]
        self._members[name] = Member(process, now, new[-1].number if new else pushed, through)
        listed = now - LISTED_SECONDS
        members = [member for member in self._members.values() if member.seen_at > listed]
        members.sort(key=lambda member: (member.process.started_at, member.process.name))
        return FleetState(
            now=now,
            is_reference=False,
            epoch=self._epoch,
            beat=self._beat,
            holder=self._holder,
            revision=self._revision,
            evaluated_at=self._evaluated_at,
            complete_since=self._complete_since,
            granted=granted,
            pushed=pushed,
            members=tuple(members),
        )

    async def take_over(self, leader: Leader, /) -> LeaderState:
        """Return the state from which a new leader continues, in one snapshot."""
        self._check_leader(leader)
        # The snapshot: what is awaited below does not read the store.
        waiting = [notification for _, notification in self._waiting.values()]
        windows = tuple(self._windows[key] for key in sorted(self._windows))
        batches = self._batches_after({})
        evaluated_at, complete_since = self._evaluated_at, self._complete_since
        return LeaderState(
            await self._state(),
            tuple(await in_steps(mapped(_copied_notification, waiting))),
            windows,
            batches,
            evaluated_at,
            complete_since,
        )

    async def batches(self, after: Mapping[str, int], /) -> tuple[Batch, ...]:
        """Return the batches whose number is above that of their process in `after`."""
        return self._batches_after(after)

    async def load(self, known_revision: int | None = None, /) -> EngineState | None:
        """Return the state that all processes share; None if it has the known revision."""
        return None if known_revision == self._revision else await self._state()

    async def commit(self, changes: Changes, /, *, leader: Leader) -> int:
        """Store the changes of an evaluation and return the new revision."""
        # Slow work comes before the first change; then everything changes in one step.
        alerts = await in_steps(mapped(_copied_alert, changes.alerts))
        notifications = await in_steps(mapped(_copied_notification, changes.notifications))
        transitions = await in_steps(_by_alert(changes.transitions))
        new = {alert.id for alert in alerts}
        self._check_leader(leader)
        for alert_id in transitions:
            if alert_id not in new and alert_id not in self._alerts:
                raise UnknownAlert(alert_id)
        self._beat += 1
        self._put_alerts(alerts)
        self._add_transitions(transitions)
        for notification in notifications:
            if notification.id not in self._waiting and notification.id not in self._dead:
                self._waiting[notification.id] = next(self._numbers), notification
        self._delete_alerts(changes.forgotten)
        if len(self._resolved_at) > self._max_history:
            self._delete_alerts(self._newest_resolved()[self._max_history :])
        self._put_windows(changes)
        self._revision += bool(changes.alerts or changes.forgotten)
        return self._revision

    async def claim(self, notification_id: str, /, *, leader: Leader) -> None:
        """Count an attempt of a notification before it is made; an unknown id is ignored."""
        self._check_leader(leader)
        self._beat += 1
        number, waiting = self._waiting.get(notification_id, (0, None))
        if waiting is not None:
            self._waiting[notification_id] = number, replace(waiting, attempts=waiting.attempts + 1)

    async def delivered(self, notification_id: str, /) -> None:
        """Delete a delivered notification or dead letter."""
        self._waiting.pop(notification_id, None)
        self._dead.pop(notification_id, None)

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str, /
    ) -> None:
        """Record a failed attempt of a notification and the time of the next one."""
        check_finite("due_at", due_at)
        number, waiting = self._waiting.get(notification_id, (0, None))
        if waiting is not None:
            changed = replace(waiting, attempts=attempts, due_at=due_at, last_error=error)
            self._waiting[notification_id] = number, changed

    async def dead(self, notification_id: str, at: float, error: str, /) -> None:
        """Turn a notification into a dead letter."""
        check_finite("at", at)
        number, waiting = self._waiting.pop(notification_id, (0, None))
        if waiting is not None:
            dead_letter = DeadLetter(replace(waiting, last_error=error), at, error)
            self._dead[notification_id] = at, number, dead_letter
            if len(self._dead) > self._max_history:
                *_, oldest = min(self._dead.values())
                del self._dead[oldest.notification.id]

    async def dead_letters(self, limit: int, /) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters, the newest first."""
        check_limit(limit)
        return tuple(
            replace(dead_letter, notification=_copied_notification(dead_letter.notification))
            for dead_letter in self._newest_dead()[:limit]
        )

    async def queue_lengths(self) -> Mapping[str, int]:
        """Return the number of undelivered notifications by sink, without sinks that have none."""
        return Counter(notification.sink for _, notification in self._waiting.values())

    async def dead_letter_counts(self) -> Mapping[str, int]:
        """Return the number of dead letters by sink, without sinks that have none."""
        return Counter(dead_letter.notification.sink for *_, dead_letter in self._dead.values())

    async def acknowledge(self, alert_id: str, ack: Ack | None, /) -> AlertRecord | None:
        """Set the acknowledgement of an alert, or remove it with None."""
        self._revision += 1
        if alert_id in self._alerts:
            self._alerts[alert_id] = replace(self._alerts[alert_id], ack=ack)
        return await self.alert(alert_id)

    async def set_thresholds(
        self, values: Json, /, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Store a new version of the thresholds, made from the version `expected`."""
        values = json_copy("values", values)
        check_finite("at", at)
        current = self._thresholds[-1].version if self._thresholds else None
        if current != expected:
            raise Conflict(current)
        version = ThresholdsVersion((current or 0) + 1, values, at, by)
        self._thresholds.append(version)
        self._revision += 1
        return _copied_thresholds(version)

    async def history(self, limit: int, /) -> tuple[ThresholdsVersion, ...]:
        """Return the newest thresholds, the newest first."""
        check_limit(limit)
        return tuple(map(_copied_thresholds, list(reversed(self._thresholds))[:limit]))

    async def add_silence(self, silence: Silence, /) -> None:
        """Store a silence; it replaces one of the same id."""
        self._silences[silence.id] = silence
        self._revision += 1

    async def remove_silence(self, silence_id: str, /) -> bool:
        """Delete a silence; return False if it is unknown."""
        self._revision += 1
        return self._silences.pop(silence_id, None) is not None

    async def usage(self, query: UsageQuery, /) -> tuple[UsageRecord, ...]:
        """Return the usage of models by time and dimensions, in this order."""
        return await in_steps(self._usage.read(query))

    async def unexported_usage(self, before: int, limit: int, /) -> tuple[UsageRevision, ...]:
        """Return at most `limit` rows that have grown since their export, by hour and key."""
        return self._usage.unexported(before, limit)

    async def confirm_export(self, revisions: Sequence[UsageRevision], /) -> None:
        """Record that revisions were exported; rows that have grown since are exported again."""
        self._usage.confirm_export(revisions)

    async def save_windows(
        self,
        policy: str,
        process: str,
        windows: Sequence[LimitWindow],
        /,
        *,
        replaces: Sequence[str] = (),
    ) -> None:
        """Replace the windows of a limit of a process, and delete those it has loaded."""
        for name in (process, *replaces):
            self._limits.pop((policy, name), None)
        self._limits[policy, process] = tuple(windows)

    async def load_windows(self, policy: str, /) -> LimitWindows:
        """Return the windows of a limit that have not ended."""
        now = self._wall()
        return most_used(
            (process, window)
            for (of_policy, process), windows in sorted(self._limits.items())
            for window in windows
            if of_policy == policy and window.ends > now
        )

    async def watch_samples(self, seconds: float, /) -> None:
        """Do nothing: there is one process."""

    async def samples_watched(self) -> float:
        """Return 0: there is one process."""
        return 0.0

    async def put_sample(self, process: str, number: int, payload: bytes, /) -> None:
        """Do nothing: there is one process."""

    async def samples(self, after: float, limit: int, /) -> SamplePage:  # noqa: ARG002
        """Return no samples: there is one process."""
        return SamplePage(self._wall(), ())

    async def silences(self, now: float, /) -> tuple[Silence, ...]:
        """Return the silences that end after `now`, by start."""
        return self._lasting_silences(now)

    async def set_setting(self, name: str, value: Any, /, *, by: str, at: float) -> None:  # noqa: ARG002
        """Store a named JSON value that all processes share."""
        check_finite("at", at)
        self._settings[name] = json_copy("value", value)
        self._revision += 1

    async def alerts(
        self,
        *,
        state: StateFilter | None = None,
        severity: Severity | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return a page of alerts, the newest first."""
        check_limit(limit)
        after = None if cursor is None else from_cursor(cursor)
        accepted = accepted_values(state, severity, type, subject)
        matching = await in_steps(_matching(list(self._alerts.values()), accepted, after))
        newest = nlargest(limit + 1, matching, key=position_of)
        return page(await in_steps(mapped(_copied_alert, newest)), limit)

    async def alert(self, alert_id: str, /) -> AlertRecord | None:
        """Return an alert, or None if it is unknown."""
        alert = self._alerts.get(alert_id)
        return alert and _copied_alert(alert)

    async def transitions(self, alert_id: str, /) -> tuple[TransitionRecord, ...]:
        """Return the transitions of an alert, the oldest first."""
        return tuple(self._transitions.get(alert_id, ()))

    async def prune(self, before: float, /) -> None:
        """Delete resolved alerts, dead letters and silences that ended before `before`."""
        self._delete_alerts([alert_id for alert_id, at in self._resolved_at.items() if at < before])
        for dead_letter in self._newest_dead():
            if dead_letter.at < before:
                del self._dead[dead_letter.notification.id]
        for silence in list(self._silences.values()):
            if silence.ends_at < before:
                del self._silences[silence.id]
        now = self._wall()
        for name, windows in list(self._limits.items()):
            if all(window.ends <= now for window in windows):
                del self._limits[name]
        ended = now - STORED_SECONDS
        self._members = {
            name: member for name, member in self._members.items() if member.seen_at >= ended
        }

    async def aclose(self) -> None:
        """Do nothing: no resources are held."""

    async def _state(self) -> EngineState:
        alerts = [alert for alert in self._alerts.values() if alert.state != "resolved"]
        alerts.sort(key=position_of)
        state = EngineState(
            self._revision,
            silences=self._lasting_silences(self._wall()),
            thresholds=_copied_thresholds(self._thresholds[-1]) if self._thresholds else None,
            settings=json_copy("settings", self._settings),
        )
        return replace(state, alerts=tuple(await in_steps(mapped(_copied_alert, alerts))))

    def _lasting_silences(self, now: float) -> tuple[Silence, ...]:
        lasting = [silence for silence in self._silences.values() if silence.ends_at > now]
        return tuple(sorted(lasting, key=lambda silence: (silence.starts_at, silence.id)))

    def _change_lease(self, process: str, lease: LeaseRequest) -> bool:
        """Return True if the lease was changed."""
        if lease.action == "take":
            granted = (lease.epoch, lease.beat) == (self._epoch, self._beat)
        else:
            granted = (lease.epoch, process) == (self._epoch, self._holder)
        if granted:
            self._epoch += lease.action == "take"
            self._holder = None if lease.action == "release" else process
            self._beat += 1
        return granted

    def _check_leader(self, leader: Leader) -> None:
        if leader != (self._epoch, self._holder):
            raise Fenced

    def _batches_after(self, after: Mapping[str, int]) -> tuple[Batch, ...]:
        keys = sorted(key for key in self._batches if key[1] > after.get(key[0], 0))
        return tuple(self._batches[key] for key in keys)

    def _put_windows(self, changes: Changes) -> None:
        self._windows |= {(window.kind, window.slot): window for window in changes.windows}
        expired = changes.expired
        for kind, slot in list(self._windows):
            if slot < expired.get(kind, slot):
                del self._windows[kind, slot]
        for key in changes.consumed:
            self._batches.pop(key, None)
        if changes.evaluated_at is not None:
            self._evaluated_at = changes.evaluated_at
        if changes.complete_since is not None:
            self._complete_since = changes.complete_since

    def _put_alerts(self, alerts: Iterable[AlertRecord]) -> None:
        for alert in alerts:
            before = self._alerts.get(alert.id)
            if before is not None and before.ack is not alert.ack:
                alert = replace(alert, ack=before.ack)
            self._alerts[alert.id] = alert
            if alert.resolved_at is None:
                self._resolved_at.pop(alert.id, None)
            else:
                self._resolved_at[alert.id] = alert.resolved_at

    def _add_transitions(self, new: Mapping[str, dict[TransitionRecord, None]]) -> None:
        for alert_id, transitions in new.items():
            stored = self._transitions.setdefault(alert_id, {})
            stored |= transitions
            for oldest in list(stored)[: max(len(stored) - MAX_TRANSITIONS, 0)]:
                del stored[oldest]

    def _newest_resolved(self) -> list[str]:
        """Return the ids of the resolved alerts, the newest first."""
        newest = sorted(
            ((at, alert_id) for alert_id, at in self._resolved_at.items()), reverse=True
        )
        return [alert_id for _, alert_id in newest]

    def _newest_dead(self) -> list[DeadLetter]:
        """Return the dead letters, the newest first."""
        return [dead_letter for *_, dead_letter in sorted(self._dead.values(), reverse=True)]

    def _delete_alerts(self, alert_ids: Iterable[str]) -> None:
        for alert_id in list(alert_ids):
            self._alerts.pop(alert_id, None)
            self._resolved_at.pop(alert_id, None)
            self._transitions.pop(alert_id, None)


def _matching(
    alerts: list[AlertRecord], accepted: Mapping[str, tuple[str, ...]], after: Position | None
) -> Steps[list[AlertRecord]]:
    """Return the alerts that match all filters and come after a position."""
    matching = list[AlertRecord]()
    for batch in batches(alerts, 10 * STEP):
        matching += [
            alert
            for alert in batch
            if (after is None or position_of(alert) < after)
            and all(getattr(alert, name) in values for name, values in accepted.items())
        ]
        if len(batch) == 10 * STEP:
            yield
    return matching


def _by_alert(
    transitions: Iterable[TransitionRecord],
) -> Steps[dict[str, dict[TransitionRecord, None]]]:
    """Return the transitions by the id of their alert, as ordered sets."""
    by_alert: dict[str, dict[TransitionRecord, None]] = {}
    for batch in batches(transitions):
        for transition in batch:
            by_alert.setdefault(transition.alert_id, {}).setdefault(transition)
        if len(batch) == STEP:
            yield
    return by_alert


def _copied_alert(alert: AlertRecord) -> AlertRecord:
    return replace(alert, finding=json_copy(f"finding of {alert.fingerprint!r}", alert.finding))


def _copied_notification(notification: Notification) -> Notification:
    name = f"event of {notification.fingerprint!r}"
    return replace(notification, event=json_copy(name, notification.event))


def _copied_thresholds(version: ThresholdsVersion) -> ThresholdsVersion:
    return replace(version, values=json_copy("values", version.values))
