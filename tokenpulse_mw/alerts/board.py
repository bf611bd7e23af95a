"""The alerts as they stand, and what each round makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from uuid import uuid4

from .lifecycle import Alert, Finding, Transition, step
from .sinks import AlertEvent


@dataclass(frozen=True, slots=True)
class _Episode:
    """One alert from its first finding to its end.

    Attributes:
        id: Its own.
        alert: Where it stands.
        told: What was last told of it, or None.
    """

    id: str
    alert: Alert
    told: AlertEvent | None = None


class Board:
    """The alerts of each rule; the life cycle says how they go on.

    Args:
        rules: How many rules there are; each has alerts of its own.
        cooldown: Seconds after which an alert that lasts is told again.
        new_id: Gives a new episode its id.
    """

    def __init__(
        self, rules: int, *, cooldown: float, new_id: Callable[[], str] = lambda: uuid4().hex
    ) -> None:
        self._episodes: list[dict[str, _Episode]] = [{} for _ in range(rules)]
        self._cooldown = cooldown
        self._new_id = new_id

    def advance(
        self, rule: int, findings: Iterable[Finding], now: float, at: float
    ) -> list[AlertEvent]:
        """Take the alerts of one rule one round on, and give what is to be told.

        Args:
            rule: The number of the rule.
            findings: What it finds now.
            now: Seconds of the engine's clock.
            at: Seconds since the epoch.
        """
        episodes, found = self._episodes[rule], _worst(findings)
        events: list[AlertEvent] = []
        for fingerprint in [*episodes, *(new for new in found if new not in episodes)]:
            before = episodes.get(fingerprint)
            stood = None if before is None else before.alert
            alert, told = step(stood, found.get(fingerprint), now=now, cooldown=self._cooldown)
            after = self._after(before, alert, told, at)
            if after is not None and after.told is not None and told:
                events.append(after.told)
            if after is not None and alert is not None:
                episodes[fingerprint] = after
            else:
                episodes.pop(fingerprint, None)
        return events

    def firing(self) -> list[AlertEvent]:
        """What was last told of each alert that fires, with what is found now."""
        return [
            replace(each.told, finding=each.alert.finding)
            for each in self._every()
            if each.told is not None
        ]

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """How many alerts there are of each type, severity and state."""
        alerts = [each.alert for each in self._every()]
        return Counter((a.finding.type, a.finding.severity or "", a.state) for a in alerts)

    def _every(self) -> list[_Episode]:
        # A scrape may run in another thread.
        return [each for episodes in self._episodes for each in list(episodes.values())]

    def _after(
        self, before: _Episode | None, alert: Alert | None, told: Transition | None, at: float
    ) -> _Episode | None:
        stands = alert or (before.alert if before is not None else None)
        if stands is None:
            return None
        episode = before or _Episode(self._new_id(), stands)
        event = _event(episode, stands.finding, told, at) if told else episode.told
        return replace(episode, alert=stands, told=event)


def _event(before: _Episode, finding: Finding, told: Transition, at: float) -> AlertEvent:
    changed = told in ("escalated", "deescalated")
    return AlertEvent(
        told,
        finding,
        at,
        alert_id=before.id,
        previous=before.alert.finding.severity if changed else None,
        fired_at=at if before.told is None else before.told.fired_at,
    )


def _worst(findings: Iterable[Finding]) -> dict[str, Finding]:
    """By fingerprint the worst of what a rule finds, the first among equals."""
    found: dict[str, Finding] = {}
    for finding in findings:
        known = found.get(finding.fingerprint)
        if known is None or finding.rank > known.rank:
            found[finding.fingerprint] = finding
    return found
