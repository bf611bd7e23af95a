"""The alerts as they stand, and what each round makes of them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from .episode import Episode, episode_of, record_of
from .lifecycle import Finding, Transition, step
from .notices import notice
from .sinks import AlertEvent
from .store.records import Ack, AlertRecord, TransitionRecord

logger = logging.getLogger("tokenpulse_mw.alerts")


@dataclass(slots=True)
class News:
    """What a round has made of the alerts.

    Attributes:
        events: What happened to them.
        notices: What is to be told of them: less in a silence, and more when it is over.
        alerts: Those that have changed, as they are to be kept.
        transitions: What happened to them, as it is to be kept; reminders are no news.
        forgotten: The ids of those that never fired, and are not found any more.
    """

    events: list[AlertEvent] = field(default_factory=list)
    notices: list[AlertEvent] = field(default_factory=list)
    alerts: list[AlertRecord] = field(default_factory=list)
    transitions: list[TransitionRecord] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)


class Board:
    """The alerts of each rule; the life cycle says how they go on.

    Args:
        rules: The names of the rules; each has alerts of its own.
        cooldown: Seconds after which an alert that lasts is told again.
        is_silenced: Whether nobody is to be told of a finding at some time of the day.
        new_id: Gives a new episode its id.
    """

    def __init__(
        self,
        rules: Sequence[str],
        *,
        cooldown: float,
        is_silenced: Callable[[Finding, float], bool],
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._episodes: dict[str, dict[str, Episode]] = {rule: {} for rule in rules}
        self._cooldown = cooldown
        self._is_silenced = is_silenced
        self._new_id = new_id

    def resume(self, record: AlertRecord, *, now: float, at: float, news: News) -> Finding | None:
        """Go on with an alert that was kept, and give what was found of it.

        None means that it does not go on: it cannot be read, its rule is gone, or it has fired
        anew while the store could not be read. It is over then, as `news` says.
        """
        try:
            episode = episode_of(record, now=now, at=at)
        except (KeyError, TypeError, ValueError) as error:
            logger.error("the alert %s that was kept cannot be read: %r", record.id, error)
            news.alerts.append(
                replace(record, state="resolved", resolved_at=at, resolve_reason="unreadable")
            )
            return None
        episodes = self._episodes.get(record.rule)
        if episodes is not None and episode.fingerprint not in episodes:
            episodes[episode.fingerprint] = episode
            return episode.alert.finding
        if not episode.fires:
            news.forgotten.append(episode.id)
            return None
        reason = "fired anew" if episodes is not None else "its rule is gone"
        news.alerts.append(record_of(episode, now=now, at=at, over=reason))
        if episodes is None:
            news.transitions.append(episode.transition("resolved", at))
            self._tell(episode, "resolved", at, news)
        return None

    def let_go(self) -> None:
        """Hold no alert of before any longer: it is judged by what is known now."""
        for episode in self._every():
            self._put(replace(episode, held_until=-math.inf))

    def acknowledge(self, alert_id: str, ack: Ack | None) -> None:
        """Note who has seen an alert; whoever has is not reminded of it."""
        for episode in self._every():
            if episode.id == alert_id:
                self._put(replace(episode, ack=ack))

    def advance(self, rule: str, findings: Iterable[Finding], now: float, at: float) -> News:
        """Take the alerts of one rule one round on.

        Args:
            rule: Its name.
            findings: What it finds now.
            now: Seconds of the engine's clock.
            at: Seconds since the epoch.
        """
        episodes, found, news = self._episodes[rule], _worst(findings), News()
        after = dict(episodes)
        for fingerprint in [*episodes, *(new for new in found if new not in episodes)]:
            before, finding = episodes.get(fingerprint), found.get(fingerprint)
            if before is not None and before.holds(finding, now):
                continue
            episode = self._step(rule, before, finding, now, at, news)
            if episode is not None:
                after[fingerprint] = episode
            else:
                after.pop(fingerprint, None)
        self._episodes[rule] = after
        return news

    def firing(self) -> list[AlertEvent]:
        """All that fires and was told, as it would be told anew with what is found now."""
        return [each.as_told() for each in self._every() if each.told_as is not None]

    def findings(self) -> list[Finding]:
        """What was last found of all that fires, told or not."""
        return [each.alert.finding for each in self._every() if each.fires]

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """How many alerts there are of each type, severity and state."""
        alerts = [(each.alert, each.severity) for each in self._every()]
        return Counter((alert.finding.type, severity, alert.state) for alert, severity in alerts)

    def _step(
        self,
        rule: str,
        before: Episode | None,
        finding: Finding | None,
        now: float,
        at: float,
        news: News,
    ) -> Episode | None:
        """Take one alert one round on, note what comes of it, and give where it stands then."""
        stood = None if before is None else before.alert
        alert, happened = step(stood, finding, now=now, cooldown=self._cooldown)
        stands = alert or stood
        if stands is None:
            return None
        episode = before or Episode(self._new_id(), rule, stands, started_at=at)
        episode = replace(episode, alert=stands)
        if happened == "fired":
            episode = replace(episode, fired_at=at)
        if happened is not None:
            previous = None if stood is None else stood.finding.severity
            news.events.append(episode.event(happened, at, previous))
            if happened != "reminded":
                news.transitions.append(episode.transition(happened, at))
        episode = self._tell(episode, happened, at, news)
        if alert is None and not episode.fires:
            news.forgotten.append(episode.id)
        elif episode != before or alert is None:
            over = "not found any more" if alert is None else None
            news.alerts.append(record_of(episode, now=now, at=at, over=over))
        return None if alert is None else episode

    def _tell(
        self, episode: Episode, happened: Transition | None, at: float, news: News
    ) -> Episode:
        """Note what is to be told of an alert, and that it was."""
        told = notice(episode.told_as, episode.severity, happened) if episode.fires else None
        if told is None or (told == "reminded" and episode.ack is not None):
            return episode
        if told == "resolved":
            news.notices.append(replace(episode.as_told(), transition="resolved", at=at, id=""))
            return episode
        if self._is_silenced(episode.alert.finding, at):
            return episode
        news.notices.append(episode.event(told, at, episode.told_as))
        return replace(episode, told_as=episode.severity)

    def _every(self) -> Iterator[Episode]:
        # A scrape may run in another thread.
        for episodes in list(self._episodes.values()):
            yield from list(episodes.values())

    def _put(self, episode: Episode) -> None:
        self._episodes[episode.rule][episode.fingerprint] = episode


def _worst(findings: Iterable[Finding]) -> dict[str, Finding]:
    """By fingerprint the worst of what a rule finds, the first among equals."""
    found: dict[str, Finding] = {}
    for finding in findings:
        known = found.get(finding.fingerprint)
        if known is None or finding.rank > known.rank:
            found[finding.fingerprint] = finding
    return found
