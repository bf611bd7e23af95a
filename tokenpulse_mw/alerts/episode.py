"""One alert from its first finding to its end, and how it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import cast

from .lifecycle import Alert, Finding, Severity, Transition
from .portable import finding_from_dict, finding_to_dict, number
from .sinks import AlertEvent
from .store.records import Ack, AlertRecord, State, TransitionRecord


@dataclass(frozen=True, slots=True)
class Episode:
    """An alert, and what of it is not for its life cycle to know.

    Attributes:
        id: Its own.
        rule: The name of the rule that found it.
        alert: Where it stands.
        started_at: When it was first found, in seconds since the epoch.
        fired_at: When it fired, in seconds since the epoch.
        told_as: The severity that was last told of it; None where nothing was.
        ack: Who has seen it.
        held_until: In seconds of the engine's clock, until when it proves nothing that the rule
            finds less of it, or nothing: the process before this one knew more.
    """

    id: str
    rule: str
    alert: Alert
    started_at: float
    fired_at: float | None = None
    told_as: Severity | None = None
    ack: Ack | None = None
    held_until: float = field(default=-math.inf, compare=False)

    @property
    def fingerprint(self) -> str:
        """What stays the same from one episode to the next."""
        return self.alert.finding.fingerprint

    @property
    def severity(self) -> Severity:
        """How bad it is: what was found bad enough to fire has one."""
        return cast(Severity, self.alert.finding.severity)

    @property
    def fires(self) -> bool:
        """It has fired, and is not over."""
        return self.alert.state != "pending"

    def is_untold(self, happened: Transition | None) -> bool:
        """Return True if a sink may be due an event, whatever was found."""
        return happened is not None or (self.fires and self.told_as != self.severity)

    def holds(self, finding: Finding | None, now: float) -> bool:
        """Whether it stays as it is, since what is found now need not be all there is."""
        if now >= self.held_until:
            return False
        return finding is None or finding.rank < self.alert.finding.rank

    def event(self, transition: Transition, at: float, previous: Severity | None) -> AlertEvent:
        """What to tell of it."""
        changed = transition in ("escalated", "deescalated")
        return AlertEvent(
            transition,
            self.alert.finding,
            at,
            alert_id=self.id,
            previous=previous if changed else None,
            fired_at=self.fired_at,
        )

    def as_told(self) -> AlertEvent:
        """That it has fired, as it would be told anew: as severe as is known, found as it is."""
        finding = replace(self.alert.finding, severity=self.told_as)
        at = self.started_at if self.fired_at is None else self.fired_at
        return replace(self.event("fired", at, None), finding=finding)

    def transition(self, transition: Transition, at: float) -> TransitionRecord:
        """What has happened to it, to be kept."""
        return TransitionRecord(
            self.id,
            self.fingerprint,
            transition,
            self.severity,
            number(self.alert.finding.value) or 0.0,
            at,
        )


def record_of(episode: Episode, *, now: float, at: float, over: str | None = None) -> AlertRecord:
    """An episode as it is kept.

    Args:
        episode: As it stands, or stood when it ended.
        now: Seconds of the engine's clock.
        at: The same moment in seconds since the epoch.
        over: Why it has ended; None where it has not.
    """
    alert, shift = episode.alert, at - now
    state: State = "resolved" if over else alert.state
    return AlertRecord(
        episode.id,
        episode.fingerprint,
        episode.rule,
        alert.finding.type,
        episode.severity,
        state,
        finding_to_dict(alert.finding),
        since=at if over else alert.since + shift,
        told=alert.told + shift,
        started_at=episode.started_at,
        fired_at=episode.fired_at,
        resolved_at=at if over else None,
        resolve_reason=over,
        ack=episode.ack,
        told_as=episode.told_as,
    )


def episode_of(record: AlertRecord, *, now: float, at: float) -> Episode:
    """The episode that was kept as `record`, to go on with.

    The time in between has passed for it too: what was pending has lasted that much longer.

    Raises:
        KeyError, TypeError, ValueError: Its finding is none.
    """
    shift, finding = now - at, finding_from_dict(record.finding)
    if record.state == "resolved" or finding.severity != record.severity:
        raise ValueError(f"an alert that goes on is not {record.state}, {finding.severity}")
    return Episode(
        record.id,
        record.rule,
        # A wall clock that was set back must not hold it in the future.
        Alert(finding, record.state, min(record.since + shift, now), min(record.told + shift, now)),
        record.started_at,
        record.fired_at,
        record.told_as,
        record.ack,
        held_until=now + finding.window,
    )
