"""Open alerts, and their changes in each evaluation."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast
from uuid import uuid4

from .lifecycle import RANKS, Alert, Finding, Severity, Transition, step
from .serialization import finding_from_dict, finding_to_dict, number
from .sinks import AlertEvent
from .steps import STEP, Steps, batches
from .store.records import Ack, AlertRecord, State, TransitionRecord

MAX_OPEN_ALERTS = 10_000  # alerts of one rule


logger = logging.getLogger("tokenpulse_mw.alerts")


Counts = Counter[tuple[str, str, str]]


@dataclass(slots=True)
class AlertChanges:
    """Changes of alerts in one evaluation.

    Attributes:
        events: The transitions of the alerts.
        notifications: Events for the sinks: fewer during a silence, more after its end.
        alerts: Records of the changed alerts for the store.
        transitions: Records of the transitions for the store, without reminders.
        forgotten: Ids of pending alerts that ended without firing.
    """

    events: list[AlertEvent] = field(default_factory=list)
    notifications: list[AlertEvent] = field(default_factory=list)
    alerts: list[AlertRecord] = field(default_factory=list)
    transitions: list[TransitionRecord] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """Number of alerts that changed in any way."""
        return max(len(self.alerts) + len(self.forgotten), len(self.notifications))


@dataclass(slots=True)
class Staged:
    """Outcome of one evaluation of one rule; `AlertTracker.commit` applies it.

    Attributes:
        rule: Name of the rule.
        episodes: The alerts of the rule afterwards, by fingerprint.
        changes: Changes, in parts of at most 50 alerts; at least one part.
        counts: Changes of the number of alerts of each kind.
        left_out: Number of findings without an alert, because the rule has too many.
    """

    rule: str
    episodes: dict[str, Episode]
    changes: list[AlertChanges]
    counts: Counts = field(default_factory=Counter)
    left_out: int = 0

    def put(self, fingerprint: str, before: Episode | None, after: Episode | None) -> None:
        """Add, replace or remove an alert; None means that it does not exist."""
        if after is before:
            return
        if before is not None:
            self.counts[_kind(before)] -= 1
        if after is None:
            self.episodes.pop(fingerprint, None)
        else:
            self.counts[_kind(after)] += 1
            self.episodes[fingerprint] = after


class AlertTracker:
    """The open alerts of each rule.

    An evaluation works on copies. Its outcome is visible only after `commit`.

    Args:
        rules: The names of the rules.
        cooldown: Seconds between two reminders of an alert.
        is_silenced: Returns, in bounded steps, True if a silence matches a finding at a time.
        new_id: Returns the id of a new episode.
        max_open: Maximum number of open alerts of one rule. The least severe findings beyond it do
            not become alerts.

    Attributes:
        overflowed: Number of findings without an alert, because their rule had too many.
    """

    def __init__(
        self,
        rules: Sequence[str],
        *,
        cooldown: float,
        is_silenced: Callable[[Finding, float], Steps[bool]],
        new_id: Callable[[], str] = lambda: uuid4().hex,
        max_open: int = MAX_OPEN_ALERTS,
    ) -> None:
        self.overflowed = 0
        self._episodes: dict[str, dict[str, Episode]] = {rule: {} for rule in rules}
        self._cooldown = cooldown
        self._is_silenced = is_silenced
        self._new_id = new_id
        self._most = max_open
        self._full = set[str]()
        self._counts: Counts = Counter()

    def resume(
        self,
        record: AlertRecord,
        *,
        now: float,
        at: float,
        changes: AlertChanges,
        complete_since: float = -math.inf,
    ) -> Finding | None:
        """Restore a stored alert and return its finding.

        Return None if it is not restored: the record is invalid, its rule no longer exists,
        or the store has another open alert with its fingerprint. Its end is then added to
        `changes`.

        Args:
            record: The stored alert.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
            changes: Receives the changes.
            complete_since: Time from which the traffic windows are complete.
        """
        try:
            episode = episode_of(record, now=now, at=at, complete_since=complete_since)
        except (KeyError, TypeError, ValueError) as error:
            logger.error(
                "stored alert is invalid, resolving it: alert=%s error=%r", record.id, error
            )
            changes.alerts.append(
                replace(record, state="resolved", resolved_at=at, resolve_reason="unreadable")
            )
            return None
        episodes = self._episodes.get(record.rule)
        if episodes is not None and episode.fingerprint not in episodes:
            episodes[episode.fingerprint] = episode
            self._counts = self._counts + Counter([_kind(episode)])
            return episode.alert.finding
        if not episode.fires:
            changes.forgotten.append(episode.id)
            return None
        reason = "duplicate" if episodes is not None else "rule removed"
        changes.alerts.append(record_of(episode, now=now, at=at, resolve_reason=reason))
        if episodes is None:
            changes.transitions.append(episode.transition("resolved", at))
            if episode.notified_severity is not None:
                changes.notifications.append(_resolved(episode, at))
        return None

    def release_held(self) -> Steps[None]:
        """Stop holding alerts restored from the store; evaluate them from current data."""
        for episodes in self._episodes.values():
            for batch in batches(list(episodes.items())):
                for fingerprint, episode in batch:
                    if episode.held_until > -math.inf:
                        episodes[fingerprint] = replace(episode, held_until=-math.inf)
                if len(batch) == STEP:
                    yield

    def set_acks(self, acks: Mapping[str, Ack | None]) -> Steps[None]:
        """Set or remove the acknowledgement of each alert in `acks`, by id."""
        for batch in batches(list(self._all())):
            for episode in batch:
                ack = acks.get(episode.id, episode.ack)
                if ack != episode.ack:
                    self._put(replace(episode, ack=ack))
            if len(batch) == STEP:
                yield

    def advance(
        self, rule: str, findings: Iterable[Finding], now: float, at: float
    ) -> Steps[Staged]:
        """Evaluate the alerts of one rule and return the outcome for `commit`.

        Args:
            rule: Name of the rule.
            findings: Current findings of the rule.
            now: Seconds of the engine's clock.
            at: Seconds since the epoch.
        """
        episodes, findings = self._episodes[rule], list(findings)
        if not episodes and not findings:
            return Staged(rule, episodes, [AlertChanges()])
        worst = yield from _worst(findings)
        new = yield from _by_severity(worst, episodes)
        room = max(self._most - len(episodes), 0)
        opened = new[:room]
        staged = Staged(rule, dict(episodes), [AlertChanges()], left_out=len(new) - len(opened))
        for count, fingerprint in enumerate([*episodes, *opened], 1):
            before, finding = episodes.get(fingerprint), worst.get(fingerprint)
            if before is None or not before.is_held(finding, now):
                news = staged.changes[-1]
                episode = yield from self._step(rule, before, finding, now, at, news)
                staged.put(fingerprint, before, episode)
            if not count % STEP:
                staged.changes.append(AlertChanges())
                yield
        return staged

    def commit(self, staged: Staged) -> None:
        """Apply the outcome of an evaluation."""
        self._episodes[staged.rule] = staged.episodes
        if staged.counts:
            counts = Counter(self._counts)
            counts.update(staged.counts)
            self._counts = +counts  # without zeros
        self.overflowed += staged.left_out
        if staged.left_out and staged.rule not in self._full:
            logger.warning(
                "too many open alerts: rule=%s open=%d left_out=%d (logged once until all fit)",
                staged.rule,
                len(staged.episodes),
                staged.left_out,
            )
        (self._full.add if staged.left_out else self._full.discard)(staged.rule)

    def firing(self) -> Steps[list[AlertEvent]]:
        """Return a "fired" event for every firing alert that was reported, with current values."""
        events = list[AlertEvent]()
        for batch in batches(self._all()):
            events += [
                episode.as_notified() for episode in batch if episode.notified_severity is not None
            ]
            if len(batch) == STEP:
                yield
        return events

    def findings(self) -> list[Finding]:
        """Return the last findings of all firing alerts, reported or not."""
        return [episode.alert.finding for episode in self._all() if episode.fires]

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return the number of alerts by type, severity and state."""
        return self._counts  # replaced as a whole: a scrape may run in another thread

    def _step(
        self,
        rule: str,
        before: Episode | None,
        finding: Finding | None,
        now: float,
        at: float,
        changes: AlertChanges,
    ) -> Steps[Episode | None]:
        """Return one alert after an evaluation, or None if it ended; add its changes."""
        previous = None if before is None else before.alert
        alert, transition = step(previous, finding, now=now, cooldown=self._cooldown)
        latest = cast(Alert, alert or previous)  # a new alert has a finding that fires
        if before is not None and alert is previous and not before.may_notify(transition):
            return before
        episode = before or Episode(self._new_id(), rule, latest, started_at=at)
        episode = replace(episode, alert=latest)
        if transition == "fired":
            episode = replace(episode, fired_at=at)
        if transition is not None:
            severity = None if previous is None else previous.finding.severity
            changes.events.append(episode.event(transition, at, severity))
            if transition != "reminded":
                changes.transitions.append(episode.transition(transition, at))
        episode = yield from self._notify(episode, transition, at, changes)
        if alert is None and not episode.fires:
            changes.forgotten.append(episode.id)
        elif episode != before or alert is None:
            reason = "no longer found" if alert is None else None
            changes.alerts.append(record_of(episode, now=now, at=at, resolve_reason=reason))
        return None if alert is None else episode

    def _notify(
        self, episode: Episode, transition: Transition | None, at: float, changes: AlertChanges
    ) -> Steps[Episode]:
        """Add the notification of an alert, if any, and return the alert afterwards."""
        notified = (
            notification_for(episode.notified_severity, episode.severity, transition)
            if episode.fires
            else None
        )
        if notified is None or (notified == "reminded" and episode.ack is not None):
            return episode
        if notified == "resolved":
            changes.notifications.append(_resolved(episode, at))
            return episode
        if (yield from self._is_silenced(episode.alert.finding, at)):
            return episode
        changes.notifications.append(episode.event(notified, at, episode.notified_severity))
        return replace(episode, notified_severity=episode.severity)

    def _all(self) -> Iterator[Episode]:
        # A scrape may run in another thread.
        for episodes in list(self._episodes.values()):
            yield from list(episodes.values())

    def _put(self, episode: Episode) -> None:
        self._episodes[episode.rule][episode.fingerprint] = episode


def _kind(episode: Episode) -> tuple[str, str, str]:
    return episode.alert.finding.type, episode.severity, episode.alert.state


def _resolved(episode: Episode, at: float) -> AlertEvent:
    return replace(episode.as_notified(), transition="resolved", at=at, id="")


def _by_severity(findings: Mapping[str, Finding], known: Mapping[str, object]) -> Steps[list[str]]:
    """Return the fingerprints of new findings that fire, the most severe first."""
    ranks: dict[int, list[str]] = {rank: [] for rank in sorted(RANKS.values(), reverse=True)}
    for batch in batches(findings.items(), 10 * STEP):
        for fingerprint, finding in batch:
            if fingerprint not in known and finding.severity is not None:
                ranks[finding.rank].append(fingerprint)
        if len(batch) == 10 * STEP:
            yield
    return [fingerprint for rank in ranks.values() for fingerprint in rank]


def _worst(findings: Iterable[Finding]) -> Steps[dict[str, Finding]]:
    """Return the most severe finding of each fingerprint, the first among equals."""
    worst: dict[str, Finding] = {}
    for batch in batches(findings):
        for finding in batch:
            fingerprint = finding.fingerprint
            known = worst.get(fingerprint)
            if known is None or finding.rank > known.rank:
                worst[fingerprint] = finding
        if len(batch) == STEP:
            yield
    return worst


@dataclass(frozen=True, slots=True)
class Episode:
    """An alert from its first finding to its resolution.

    Attributes:
        id: Unique id.
        rule: Name of the rule.
        alert: State in the life cycle.
        started_at: Time of the first finding, in seconds since the epoch.
        fired_at: Time of firing, in seconds since the epoch.
        notified_severity: The severity last reported to the sinks; None if unreported.
        ack: Acknowledgement, if any.
        held_until: Until this time, in seconds of the engine's clock, a restored alert is neither
            resolved nor lowered: the windows do not yet cover the traffic before the restart.
    """

    id: str
    rule: str
    alert: Alert
    started_at: float
    fired_at: float | None = None
    notified_severity: Severity | None = None
    ack: Ack | None = None
    held_until: float = field(default=-math.inf, compare=False)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the alert, the same in all its episodes."""
        return self.alert.finding.fingerprint

    @property
    def severity(self) -> Severity:
        """Severity of the alert; its finding always has one."""
        return cast(Severity, self.alert.finding.severity)

    @property
    def fires(self) -> bool:
        """True if the alert has fired and is not resolved."""
        return self.alert.state != "pending"

    def may_notify(self, transition: Transition | None) -> bool:
        """Return True if sinks may have to be notified."""
        return transition is not None or (self.fires and self.notified_severity != self.severity)

    def is_held(self, finding: Finding | None, now: float) -> bool:
        """Return True if a restored alert must not be lowered or resolved yet."""
        if now >= self.held_until:
            return False
        return finding is None or finding.rank < self.alert.finding.rank

    def event(self, transition: Transition, at: float, previous: Severity | None) -> AlertEvent:
        """Return the event of a transition."""
        changed = transition in ("escalated", "deescalated")
        return AlertEvent(
            transition,
            self.alert.finding,
            at,
            alert_id=self.id,
            previous=previous if changed else None,
            fired_at=self.fired_at,
        )

    def as_notified(self) -> AlertEvent:
        """Return a "fired" event with the reported severity and the current finding."""
        finding = replace(self.alert.finding, severity=self.notified_severity)
        at = self.started_at if self.fired_at is None else self.fired_at
        return replace(self.event("fired", at, None), finding=finding)

    def transition(self, transition: Transition, at: float) -> TransitionRecord:
        """Return the record of a transition."""
        return TransitionRecord(
            self.id,
            self.fingerprint,
            transition,
            self.severity,
            number(self.alert.finding.value) or 0.0,
            at,
        )


def record_of(
    episode: Episode, *, now: float, at: float, resolve_reason: str | None = None
) -> AlertRecord:
    """Return the record of an episode.

    Args:
        episode: The current episode, or its last state.
        now: Seconds of the engine's clock.
        at: The same moment in seconds since the epoch.
        resolve_reason: Reason for the end; None if it has not ended.
    """
    alert, shift = episode.alert, at - now
    state: State = "resolved" if resolve_reason else alert.state
    return AlertRecord(
        episode.id,
        episode.fingerprint,
        episode.rule,
        alert.finding.type,
        episode.severity,
        state,
        finding_to_dict(alert.finding),
        since=at if resolve_reason else alert.since + shift,
        last_notified_at=alert.notified_at + shift,
        started_at=episode.started_at,
        fired_at=episode.fired_at,
        resolved_at=at if resolve_reason else None,
        resolve_reason=resolve_reason,
        ack=episode.ack,
        notified_severity=episode.notified_severity,
    )


def episode_of(
    record: AlertRecord, *, now: float, at: float, complete_since: float = -math.inf
) -> Episode:
    """Return the episode of a record.

    The time since it was stored counts, for example as time pending.

    Args:
        record: The record.
        now: Seconds of the engine's clock.
        at: The same moment in seconds since the epoch.
        complete_since: Time from which the traffic windows are complete; until they cover the
            window of the finding, the alert is held.

    Raises:
        KeyError, TypeError, ValueError: The record is invalid.
    """
    shift, finding = now - at, finding_from_dict(record.finding)
    if record.state == "resolved" or finding.severity != record.severity:
        raise ValueError(
            f"record must be of an open alert, got state={record.state} severity={finding.severity}"
        )
    return Episode(
        record.id,
        record.rule,
        # After the wall clock was set back, the times would be in the future.
        Alert(
            finding,
            record.state,
            min(record.since + shift, now),
            min(record.last_notified_at + shift, now),
        ),
        record.started_at,
        record.fired_at,
        record.notified_severity,
        record.ack,
        held_until=complete_since + finding.window + shift,
    )


def notification_for(
    notified_severity: Severity | None, severity: Severity, transition: Transition | None
) -> Transition | None:
    """Return the transition to report to the sinks, if any.

    It depends on the severity reported last: a resolution is reported only if the alert was
    reported, and an alert that still fires after a silence is reported then.

    Args:
        notified_severity: The severity reported last; None if unreported.
        severity: The current severity.
        transition: The transition in the life cycle, if any.
    """
    if transition == "resolved":
        return None if notified_severity is None else "resolved"
    if notified_severity is None:
        return "fired"
    if severity != notified_severity:
        return "escalated" if RANKS[severity] > RANKS[notified_severity] else "deescalated"
    return "reminded" if transition == "reminded" else None
