"""A store that lives and ends with its process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from heapq import nlargest
from itertools import count

from ..steps import STEP, Steps, batches, in_steps, mapped
from .paging import Position, check_filters, from_cursor, page, place
from .protocol import (
    MAX_TRANSITIONS,
    Changes,
    Conflict,
    EngineState,
    Page,
    UnknownAlert,
    check_history,
    check_limit,
)
from .records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Json,
    Notification,
    Severity,
    Silence,
    State,
    ThresholdsVersion,
    TransitionRecord,
    check_finite,
    json_copy,
)


class MemoryAlertStore:
    """An `AlertStore` in memory: nothing of it survives. It runs on asyncio and on trio.

    Args:
        max_history: Resolved alerts, dead letters and versions of thresholds that are kept, each.
        wall: Seconds since the epoch, for which silences have ended when it is loaded.

    Raises:
        ValueError: `max_history` is below 1.
    """

    def __init__(self, *, max_history: int = 1000, wall: Callable[[], float] = time.time) -> None:
        check_history(max_history)
        self._most = max_history
        self._wall = wall
        self._alerts: dict[str, AlertRecord] = {}
        # Of each alert, as an ordered set.
        self._transitions: dict[str, dict[TransitionRecord, None]] = {}
        self._over: dict[str, float] = {}  # resolved alerts, and when they were
        self._waiting: dict[str, tuple[int, Notification]] = {}
        # With the time and the number that they are ordered by.
        self._dead: dict[str, tuple[float, int, DeadLetter]] = {}
        self._arrivals = count()  # numbers of the notifications
        self._silences: dict[str, Silence] = {}
        self._thresholds: deque[ThresholdsVersion] = deque(maxlen=max_history)
        self._engine: str | None = None

    async def load(self) -> EngineState:
        """What an engine goes on with."""
        opened = [each for each in self._alerts.values() if each.state != "resolved"]
        waiting = [each for _, each in self._waiting.values()]
        opened.sort(key=place)
        return EngineState(
            tuple(await in_steps(mapped(_own, opened))),
            await self.silences(self._wall()),
            next(iter(await self.history(1)), None),
            tuple(await in_steps(mapped(_own_event, waiting))),
        )

    async def commit(self, changes: Changes) -> str | None:
        """Keep what has changed, all of it or nothing, and give the engine of the round before."""
        # All that takes long is done before anything changes; then all of it changes in one step.
        alerts = await in_steps(mapped(_own, changes.alerts))
        notifications = await in_steps(mapped(_own_event, changes.notifications))
        happened = await in_steps(_by_alert(changes.transitions))
        new = {each.id for each in alerts}
        for alert_id in happened:
            if alert_id not in new and alert_id not in self._alerts:
                raise UnknownAlert(f"no alert {alert_id!r} is kept: commit it as well")
        self._put(alerts)
        self._add_transitions(happened)
        for notification in notifications:
            if notification.id not in self._waiting and notification.id not in self._dead:
                self._waiting[notification.id] = next(self._arrivals), notification
        self._forget(changes.forgotten)
        if len(self._over) > self._most:
            self._forget(self._resolved()[self._most :])
        last, self._engine = self._engine, changes.engine or self._engine
        return last

    async def delivered(self, notification_id: str) -> None:
        """Forget a notification that was taken."""
        self._waiting.pop(notification_id, None)
        self._dead.pop(notification_id, None)

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str
    ) -> None:
        """Note that a sink did not take a notification, and when it is asked again."""
        check_finite("due_at", due_at)
        number, waiting = self._waiting.get(notification_id, (0, None))
        if waiting is not None:
            changed = replace(waiting, attempts=attempts, due_at=due_at, last_error=error)
            self._waiting[notification_id] = number, changed

    async def dead(self, notification_id: str, at: float, error: str) -> None:
        """Give a notification up."""
        check_finite("at", at)
        number, waiting = self._waiting.pop(notification_id, (0, None))
        if waiting is not None:
            letter = DeadLetter(replace(waiting, last_error=error), at, error)
            self._dead[notification_id] = at, number, letter
            if len(self._dead) > self._most:
                *_, oldest = min(self._dead.values())
                del self._dead[oldest.notification.id]

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        """What was given up, the newest first."""
        check_limit(limit)
        return tuple(
            replace(each, notification=_own_event(each.notification))
            for each in self._newest_dead()[:limit]
        )

    async def acknowledge(self, alert_id: str, ack: Ack | None) -> AlertRecord | None:
        """Note who has seen an alert, or with None that nobody has."""
        if alert_id in self._alerts:
            self._alerts[alert_id] = replace(self._alerts[alert_id], ack=ack)
        return await self.alert(alert_id)

    async def set_thresholds(
        self, values: Json, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Make a new version of the thresholds, out of the version `expected`."""
        kept = json_copy("values", values)
        check_finite("at", at)
        current = self._thresholds[-1].version if self._thresholds else None
        if current != expected:
            raise Conflict(current)
        made = ThresholdsVersion((current or 0) + 1, kept, at, by)
        self._thresholds.append(made)
        return replace(made, values=json_copy("values", kept))

    async def history(self, limit: int) -> tuple[ThresholdsVersion, ...]:
        """The thresholds that were set, the newest first."""
        check_limit(limit)
        newest = list(reversed(self._thresholds))[:limit]
        return tuple(replace(each, values=json_copy("values", each.values)) for each in newest)

    async def add_silence(self, silence: Silence) -> None:
        """Keep a silence, in place of one of the same id."""
        self._silences[silence.id] = silence

    async def remove_silence(self, silence_id: str) -> bool:
        """Forget a silence, and say whether there was one."""
        return self._silences.pop(silence_id, None) is not None

    async def silences(self, now: float) -> tuple[Silence, ...]:
        """Silences that end after `now`, by their start."""
        lasting = [each for each in self._silences.values() if each.ends_at > now]
        return tuple(sorted(lasting, key=lambda each: (each.starts_at, each.id)))

    async def alerts(
        self,
        *,
        state: State | None = None,
        severity: Severity | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """A page of alerts, the newest first."""
        check_filters(state, severity, limit)
        after = None if cursor is None else from_cursor(cursor)
        wanted = {"state": state, "severity": severity, "type": type, "subject": subject}
        filters = [(name, value) for name, value in wanted.items() if value is not None]
        found = await in_steps(_matching(list(self._alerts.values()), filters, after))
        newest = nlargest(limit + 1, found, key=place)
        return page(await in_steps(mapped(_own, newest)), limit)

    async def alert(self, alert_id: str) -> AlertRecord | None:
        """One alert, or None."""
        found = self._alerts.get(alert_id)
        return found and _own(found)

    async def transitions(self, alert_id: str) -> tuple[TransitionRecord, ...]:
        """What has happened to an alert, the oldest first."""
        return tuple(self._transitions.get(alert_id, ()))

    async def prune(self, before: float) -> None:
        """Forget what was over before `before`."""
        self._forget([each for each, at in self._over.items() if at < before])
        for letter in self._newest_dead():
            if letter.at < before:
                del self._dead[letter.notification.id]
        for silence in list(self._silences.values()):
            if silence.ends_at < before:
                del self._silences[silence.id]

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _put(self, alerts: Iterable[AlertRecord]) -> None:
        for alert in alerts:
            before = self._alerts.get(alert.id)
            if before is not None and before.ack is not alert.ack:
                alert = replace(alert, ack=before.ack)
            self._alerts[alert.id] = alert
            if alert.resolved_at is None:
                self._over.pop(alert.id, None)
            else:
                self._over[alert.id] = alert.resolved_at

    def _add_transitions(self, happened: Mapping[str, dict[TransitionRecord, None]]) -> None:
        for alert_id, transitions in happened.items():
            known = self._transitions.setdefault(alert_id, {})
            known |= transitions
            for oldest in list(known)[: max(len(known) - MAX_TRANSITIONS, 0)]:
                del known[oldest]

    def _resolved(self) -> list[str]:
        """Return the ids of the resolved alerts, the newest first."""
        newest = sorted(zip(self._over.values(), self._over, strict=True), reverse=True)
        return [alert_id for _, alert_id in newest]

    def _newest_dead(self) -> list[DeadLetter]:
        """Return the dead letters, the newest first."""
        return [letter for *_, letter in sorted(self._dead.values(), reverse=True)]

    def _forget(self, alert_ids: Iterable[str]) -> None:
        for alert_id in list(alert_ids):
            self._alerts.pop(alert_id, None)
            self._over.pop(alert_id, None)
            self._transitions.pop(alert_id, None)


def _matching(
    alerts: list[AlertRecord], filters: list[tuple[str, str]], after: Position | None
) -> Steps[list[AlertRecord]]:
    found = list[AlertRecord]()
    for batch in batches(alerts, 10 * STEP):
        found += [
            each
            for each in batch
            if (after is None or place(each) < after)
            and all(getattr(each, name) == value for name, value in filters)
        ]
        if len(batch) == 10 * STEP:
            yield
    return found


def _by_alert(
    transitions: Iterable[TransitionRecord],
) -> Steps[dict[str, dict[TransitionRecord, None]]]:
    happened: dict[str, dict[TransitionRecord, None]] = {}
    for batch in batches(transitions):
        for transition in batch:
            happened.setdefault(transition.alert_id, {}).setdefault(transition)
        if len(batch) == STEP:
            yield
    return happened


def _own(alert: AlertRecord) -> AlertRecord:
    return replace(alert, finding=json_copy(f"finding of {alert.fingerprint!r}", alert.finding))


def _own_event(notification: Notification) -> Notification:
    name = f"event of {notification.fingerprint!r}"
    return replace(notification, event=json_copy(name, notification.event))
