"""A store that lives and ends with its process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from .paging import check_filters, from_cursor, page, place
from .protocol import (
    MOST_TRANSITIONS,
    Changes,
    Conflict,
    Kept,
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
        # Those that wait and those that are dead together, in the order of their coming.
        self._notifications: dict[str, Notification | DeadLetter] = {}
        self._silences: dict[str, Silence] = {}
        self._thresholds: deque[ThresholdsVersion] = deque(maxlen=max_history)
        self._engine: str | None = None

    async def load(self) -> Kept:
        """What an engine goes on with."""
        opened = [each for each in self._alerts.values() if each.state != "resolved"]
        waiting = [each for each in self._notifications.values() if isinstance(each, Notification)]
        return Kept(
            tuple(map(_own, sorted(opened, key=place))),
            await self.silences(self._wall()),
            next(iter(await self.history(1)), None),
            tuple(map(_own_event, waiting)),
        )

    async def commit(self, changes: Changes) -> str | None:
        """Keep what has changed, all of it or nothing, and give the engine of the round before."""
        alerts = [_own(each) for each in changes.alerts]
        notifications = [_own_event(each) for each in changes.notifications]
        known = self._alerts.keys() | {each.id for each in alerts}
        for transition in changes.transitions:
            if transition.alert_id not in known:
                raise UnknownAlert(f"no alert {transition.alert_id!r} is kept: commit it as well")
        for alert in alerts:
            before = self._alerts.get(alert.id, alert)
            self._alerts[alert.id] = replace(alert, ack=before.ack)
        for transition in changes.transitions:
            self._add_transition(transition)
        for notification in notifications:
            self._notifications.setdefault(notification.id, notification)
        self._forget(changes.forgotten)
        self._forget(each.id for each in self._resolved()[self._most :])
        last, self._engine = self._engine, changes.engine or self._engine
        return last

    async def delivered(self, notification_id: str) -> None:
        """Forget a notification that was taken."""
        self._notifications.pop(notification_id, None)

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str
    ) -> None:
        """Note that a sink did not take a notification, and when it is asked again."""
        check_finite("due_at", due_at)
        waiting = self._notifications.get(notification_id)
        if isinstance(waiting, Notification):
            self._notifications[notification_id] = replace(
                waiting, attempts=attempts, due_at=due_at, last_error=error
            )

    async def dead(self, notification_id: str, at: float, error: str) -> None:
        """Give a notification up."""
        check_finite("at", at)
        waiting = self._notifications.get(notification_id)
        if isinstance(waiting, Notification):
            letter = DeadLetter(replace(waiting, last_error=error), at, error)
            self._notifications[notification_id] = letter
            for each in self._dead()[self._most :]:
                del self._notifications[each.notification.id]

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        """What was given up, the newest first."""
        check_limit(limit)
        return tuple(
            replace(each, notification=_own_event(each.notification))
            for each in self._dead()[:limit]
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
        found = [
            each
            for each in self._alerts.values()
            if (after is None or place(each) < after)
            and all(getattr(each, name) == value for name, value in filters)
        ]
        found.sort(key=place, reverse=True)
        return page([_own(each) for each in found[: limit + 1]], limit)

    async def alert(self, alert_id: str) -> AlertRecord | None:
        """One alert, or None."""
        found = self._alerts.get(alert_id)
        return found and _own(found)

    async def transitions(self, alert_id: str) -> tuple[TransitionRecord, ...]:
        """What has happened to an alert, the oldest first."""
        return tuple(self._transitions.get(alert_id, ()))

    async def prune(self, before: float) -> None:
        """Forget what was over before `before`."""
        self._forget(each.id for each in self._resolved() if (each.resolved_at or 0) < before)
        for letter in self._dead():
            if letter.at < before:
                del self._notifications[letter.notification.id]
        for silence in list(self._silences.values()):
            if silence.ends_at < before:
                del self._silences[silence.id]

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _add_transition(self, transition: TransitionRecord) -> None:
        known = self._transitions.setdefault(transition.alert_id, {})
        known.setdefault(transition)
        if len(known) > MOST_TRANSITIONS:
            del known[next(iter(known))]

    def _resolved(self) -> list[AlertRecord]:
        """Alerts that are over, the newest first."""
        resolved = [each for each in self._alerts.values() if each.state == "resolved"]
        return sorted(resolved, key=lambda each: (each.resolved_at, each.id), reverse=True)

    def _dead(self) -> list[DeadLetter]:
        """Dead letters, the newest first."""
        newest = reversed(self._notifications.values())
        dead = [each for each in newest if isinstance(each, DeadLetter)]
        return sorted(dead, key=lambda each: each.at, reverse=True)

    def _forget(self, alert_ids: Iterable[str]) -> None:
        for alert_id in list(alert_ids):
            self._alerts.pop(alert_id, None)
            self._transitions.pop(alert_id, None)


def _own(alert: AlertRecord) -> AlertRecord:
    return replace(alert, finding=json_copy(f"finding of {alert.fingerprint!r}", alert.finding))


def _own_event(notification: Notification) -> Notification:
    name = f"event of {notification.fingerprint!r}"
    return replace(notification, event=json_copy(name, notification.event))
