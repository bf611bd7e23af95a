"""What a store promises, in the plainest form: lists, and no thought of speed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tokenpulse_mw.alerts.store import (
    Ack,
    AlertRecord,
    Changes,
    DeadLetter,
    EngineState,
    Notification,
    Silence,
    ThresholdsVersion,
    TransitionRecord,
)


@dataclass
class Model:
    """Everything that is kept; `most` is the bound of each history."""

    most: int
    alerts: list[AlertRecord] = field(default_factory=list)
    transitions: list[TransitionRecord] = field(default_factory=list)
    waiting: list[tuple[int, Notification]] = field(default_factory=list)
    dead_letters: list[tuple[float, int, Notification]] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    versions: list[ThresholdsVersion] = field(default_factory=list)
    arrivals: int = 0

    def kept(self, now: float) -> EngineState:
        """What an engine goes on with."""
        opened = [each for each in self.alerts if each.state != "resolved"]
        return EngineState(
            tuple(sorted(opened, key=lambda each: (each.started_at, each.id))),
            self.lasting(now),
            self.versions[-1] if self.versions else None,
            tuple(each for _, each in sorted(self.waiting, key=lambda pair: pair[0])),
        )

    def lasting(self, now: float) -> tuple[Silence, ...]:
        """Silences that end after `now`."""
        lasting = [each for each in self.silences if each.ends_at > now]
        return tuple(sorted(lasting, key=lambda each: (each.starts_at, each.id)))

    def newest(self) -> list[AlertRecord]:
        """All alerts."""
        return sorted(self.alerts, key=lambda each: (each.started_at, each.id), reverse=True)

    def log(self, alert_id: str) -> tuple[TransitionRecord, ...]:
        """What has happened to an alert."""
        return tuple(each for each in self.transitions if each.alert_id == alert_id)

    def dead(self) -> tuple[DeadLetter, ...]:
        """Dead letters."""
        newest = sorted(self.dead_letters, key=lambda each: each[:2], reverse=True)
        return tuple(DeadLetter(each, at, each.last_error or "") for at, _, each in newest)

    def commit(self, changes: Changes) -> bool:
        """Keep what has changed, unless a transition is of no alert."""
        known = {each.id for each in (*self.alerts, *changes.alerts)}
        if any(each.alert_id not in known for each in changes.transitions):
            return False
        for alert in changes.alerts:
            before = [each for each in self.alerts if each.id == alert.id]
            self.alerts = [each for each in self.alerts if each.id != alert.id]
            self.alerts.append(replace(alert, ack=before[0].ack) if before else alert)
        for transition in changes.transitions:
            if transition not in self.transitions:
                self.transitions.append(transition)
        for notification in changes.notifications:
            self._add(notification)
        self._keep([each for each in self.alerts if each.id not in changes.forgotten])
        over = [each for each in self.alerts if each.state == "resolved"]
        over.sort(key=lambda each: (each.resolved_at, each.id), reverse=True)
        dropped = {each.id for each in over[self.most :]}
        self._keep([each for each in self.alerts if each.id not in dropped])
        return True

    def delivered(self, identity: str) -> None:
        """Forget a notification."""
        self.waiting = [pair for pair in self.waiting if pair[1].id != identity]
        self.dead_letters = [each for each in self.dead_letters if each[2].id != identity]

    def postponed(self, identity: str, attempts: int, due_at: float, error: str) -> None:
        """Note an attempt."""
        changes = {"attempts": attempts, "due_at": due_at, "last_error": error}
        self.waiting = [
            (number, replace(each, **changes) if each.id == identity else each)  # type: ignore[arg-type]
            for number, each in self.waiting
        ]

    def give_up(self, identity: str, at: float, error: str) -> None:
        """Make a dead letter."""
        for number, each in self.waiting:
            if each.id == identity:
                self.dead_letters.append((at, number, replace(each, last_error=error)))
        self.waiting = [pair for pair in self.waiting if pair[1].id != identity]
        self.dead_letters = sorted(self.dead_letters, key=lambda each: each[:2])[-self.most :]

    def acknowledge(self, identity: str, ack: Ack | None) -> AlertRecord | None:
        """Note who has seen an alert."""
        found = None
        for number, each in enumerate(self.alerts):
            if each.id == identity:
                found = self.alerts[number] = replace(each, ack=ack)
        return found

    def set_thresholds(
        self, values: dict[str, Any], expected: int | None, at: float
    ) -> ThresholdsVersion | None:
        """The new version, or None where another one than expected is current."""
        current = self.versions[-1].version if self.versions else None
        if current != expected:
            return None
        made = ThresholdsVersion((current or 0) + 1, values, at, "ada")
        self.versions = [*self.versions, made][-self.most :]
        return made

    def put_silence(self, silence: Silence) -> None:
        """Keep a silence."""
        self.silences = [each for each in self.silences if each.id != silence.id] + [silence]

    def remove_silence(self, identity: str) -> bool:
        """Forget a silence."""
        before = len(self.silences)
        self.silences = [each for each in self.silences if each.id != identity]
        return len(self.silences) < before

    def prune(self, before: float) -> None:
        """Forget what was over."""
        late = [each for each in self.alerts if each.resolved_at is None]
        self._keep(late + [each for each in self.alerts if (each.resolved_at or -1) >= before])
        self.dead_letters = [each for each in self.dead_letters if each[0] >= before]
        self.silences = [each for each in self.silences if each.ends_at >= before]

    def _add(self, notification: Notification) -> None:
        known = {each.id for _, each in self.waiting} | {each.id for *_, each in self.dead_letters}
        if notification.id not in known:
            self.arrivals += 1
            self.waiting.append((self.arrivals, notification))

    def _keep(self, alerts: list[AlertRecord]) -> None:
        self.alerts = alerts
        known = {each.id for each in alerts}
        self.transitions = [each for each in self.transitions if each.alert_id in known]
