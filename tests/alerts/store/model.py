"""Model of a store: lists without regard to speed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tokenpulse_mw.alerts.store import (
    Ack,
    AlertRecord,
    Batch,
    Changes,
    DeadLetter,
    EngineState,
    FleetState,
    Leader,
    LeaderState,
    LeaseRequest,
    Member,
    Notification,
    Process,
    Silence,
    ThresholdsVersion,
    TransitionRecord,
    WindowRecord,
)


@dataclass
class Model:
    """Stored records; `max_history` bounds each kind of history, and the time is always `now`."""

    max_history: int
    now: float
    alerts: list[AlertRecord] = field(default_factory=list)
    transitions: list[TransitionRecord] = field(default_factory=list)
    waiting: list[tuple[int, Notification]] = field(default_factory=list)
    dead_letters: list[tuple[float, int, Notification]] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    versions: list[ThresholdsVersion] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    beat: int = 0
    holder: str | None = None
    revision: int = 0
    evaluated_at: float | None = None
    complete_since: float = field(init=False)
    members: dict[str, Member] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    windows: list[WindowRecord] = field(default_factory=list)
    last_number: int = 0

    def __post_init__(self) -> None:
        self.complete_since = self.now

    def heartbeat(
        self, process: Process, batches: list[Batch], through: int, lease: LeaseRequest | None
    ) -> FleetState:
        """Store the traffic of a process, change the lease, and return the fleet."""
        granted = lease is not None and self._granted(process.name, lease)
        if lease is not None and granted:
            self.beat += 1
            self.epoch += lease.action == "take"
            self.holder = None if lease.action == "release" else process.name
        before = self.members.get(process.name, Member(process, self.now, 0, through))
        new = [batch for batch in batches if batch.number > before.pushed]
        self.batches += new
        self.members[process.name] = Member(
            process,
            self.now,
            max([before.pushed, *(batch.number for batch in batches)]),
            through,
        )
        return FleetState(
            self.now,
            False,
            self.epoch,
            self.beat,
            self.holder,
            self.revision,
            self.evaluated_at,
            self.complete_since,
            granted,
            before.pushed,
            tuple(member for _, member in sorted(self.members.items())),
        )

    def _granted(self, process: str, lease: LeaseRequest) -> bool:
        if lease.action == "take":
            return (lease.epoch, lease.beat) == (self.epoch, self.beat)
        return self.leads(Leader(lease.epoch, process))

    def leads(self, leader: Leader) -> bool:
        """Return True if `leader` leads."""
        return (self.epoch, self.holder) == leader

    def take_over(self) -> LeaderState:
        """Return the state from which a new leader continues."""
        return LeaderState(
            self.load(),
            tuple(waiting for _, waiting in sorted(self.waiting, key=lambda pair: pair[0])),
            tuple(sorted(self.windows, key=lambda window: (window.kind, window.slot))),
            tuple(sorted(self.batches, key=lambda batch: (batch.process, batch.number))),
            self.evaluated_at,
            self.complete_since,
        )

    def load(self) -> EngineState:
        """Return the state that all processes share."""
        open_alerts = [alert for alert in self.alerts if alert.state != "resolved"]
        return EngineState(
            self.revision,
            tuple(sorted(open_alerts, key=lambda alert: (alert.started_at, alert.id))),
            self.lasting_silences(self.now),
            self.versions[-1] if self.versions else None,
            self.settings,
        )

    def lasting_silences(self, now: float) -> tuple[Silence, ...]:
        """Return the silences that end after `now`."""
        lasting = [silence for silence in self.silences if silence.ends_at > now]
        return tuple(sorted(lasting, key=lambda silence: (silence.starts_at, silence.id)))

    def newest_alerts(self) -> list[AlertRecord]:
        """Return all alerts, the newest first."""
        return sorted(self.alerts, key=lambda alert: (alert.started_at, alert.id), reverse=True)

    def transitions_of(self, alert_id: str) -> tuple[TransitionRecord, ...]:
        """Return the transitions of an alert."""
        return tuple(record for record in self.transitions if record.alert_id == alert_id)

    def newest_dead(self) -> tuple[DeadLetter, ...]:
        """Return the dead letters, the newest first."""
        newest = sorted(self.dead_letters, key=lambda letter: letter[:2], reverse=True)
        return tuple(
            DeadLetter(notification, at, notification.last_error or "")
            for at, _, notification in newest
        )

    def commit(self, changes: Changes) -> bool:
        """Store the changes; return False if the alert of a transition is unknown."""
        known = {alert.id for alert in (*self.alerts, *changes.alerts)}
        if any(record.alert_id not in known for record in changes.transitions):
            return False
        self.beat += 1
        self.revision += bool(changes.alerts or changes.forgotten)
        self._commit_windows(changes)
        for alert in changes.alerts:
            before = [stored for stored in self.alerts if stored.id == alert.id]
            self.alerts = [stored for stored in self.alerts if stored.id != alert.id]
            self.alerts.append(replace(alert, ack=before[0].ack) if before else alert)
        for transition in changes.transitions:
            if transition not in self.transitions:
                self.transitions.append(transition)
        for notification in changes.notifications:
            self._add_notification(notification)
        self._set_alerts([alert for alert in self.alerts if alert.id not in changes.forgotten])
        resolved = [alert for alert in self.alerts if alert.state == "resolved"]
        resolved.sort(key=lambda alert: (alert.resolved_at, alert.id), reverse=True)
        dropped = {alert.id for alert in resolved[self.max_history :]}
        self._set_alerts([alert for alert in self.alerts if alert.id not in dropped])
        return True

    def _commit_windows(self, changes: Changes) -> None:
        keys = {(window.kind, window.slot) for window in changes.windows}
        others = [window for window in self.windows if (window.kind, window.slot) not in keys]
        self.windows = [
            window
            for window in (*others, *changes.windows)
            if window.slot >= changes.expired.get(window.kind, 0)
        ]
        self.batches = [
            batch for batch in self.batches if (batch.process, batch.number) not in changes.consumed
        ]
        if changes.evaluated_at is not None:
            self.evaluated_at = changes.evaluated_at

    def claim(self, identity: str) -> None:
        """Count an attempt."""
        self.beat += 1
        self.waiting = [
            (number, replace(record, attempts=record.attempts + (record.id == identity)))
            for number, record in self.waiting
        ]

    def delivered(self, identity: str) -> None:
        """Delete a notification or dead letter."""
        self.waiting = [pair for pair in self.waiting if pair[1].id != identity]
        self.dead_letters = [letter for letter in self.dead_letters if letter[2].id != identity]

    def postponed(self, identity: str, attempts: int, due_at: float, error: str) -> None:
        """Record a failed attempt."""
        changes = {"attempts": attempts, "due_at": due_at, "last_error": error}
        self.waiting = [
            (number, replace(waiting, **changes) if waiting.id == identity else waiting)  # type: ignore[arg-type]
            for number, waiting in self.waiting
        ]

    def dead(self, identity: str, at: float, error: str) -> None:
        """Turn a notification into a dead letter."""
        for number, waiting in self.waiting:
            if waiting.id == identity:
                self.dead_letters.append((at, number, replace(waiting, last_error=error)))
        self.waiting = [pair for pair in self.waiting if pair[1].id != identity]
        oldest_first = sorted(self.dead_letters, key=lambda letter: letter[:2])
        self.dead_letters = oldest_first[-self.max_history :]

    def acknowledge(self, identity: str, ack: Ack | None) -> AlertRecord | None:
        """Set the acknowledgement of an alert and return the alert."""
        self.revision += 1
        acknowledged = None
        for index, alert in enumerate(self.alerts):
            if alert.id == identity:
                acknowledged = self.alerts[index] = replace(alert, ack=ack)
        return acknowledged

    def set_thresholds(
        self, values: dict[str, Any], expected: int | None, at: float
    ) -> ThresholdsVersion | None:
        """Return the new version, or None if `expected` is not the current one."""
        current = self.versions[-1].version if self.versions else None
        if current != expected:
            return None
        self.revision += 1
        version = ThresholdsVersion((current or 0) + 1, values, at, "ada")
        self.versions = [*self.versions, version][-self.max_history :]
        return version

    def add_silence(self, silence: Silence) -> None:
        """Store a silence in place of one of the same id."""
        self.revision += 1
        self.silences = [stored for stored in self.silences if stored.id != silence.id] + [silence]

    def remove_silence(self, identity: str) -> bool:
        """Delete a silence; return False if it is unknown."""
        self.revision += 1
        before = len(self.silences)
        self.silences = [silence for silence in self.silences if silence.id != identity]
        return len(self.silences) < before

    def set_setting(self, name: str, value: Any) -> None:
        """Store a setting."""
        self.revision += 1
        self.settings = {**self.settings, name: value}

    def prune(self, before: float) -> None:
        """Delete what ended before `before`."""
        self._set_alerts(
            [
                alert
                for alert in self.alerts
                if alert.resolved_at is None or alert.resolved_at >= before
            ]
        )
        self.dead_letters = [letter for letter in self.dead_letters if letter[0] >= before]
        self.silences = [silence for silence in self.silences if silence.ends_at >= before]

    def _add_notification(self, notification: Notification) -> None:
        known = {waiting.id for _, waiting in self.waiting}
        known |= {dead.id for *_, dead in self.dead_letters}
        if notification.id not in known:
            self.last_number += 1
            self.waiting.append((self.last_number, notification))

    def _set_alerts(self, alerts: list[AlertRecord]) -> None:
        self.alerts = alerts
        known = {alert.id for alert in alerts}
        self.transitions = [record for record in self.transitions if record.alert_id in known]
