"""What a round decides: what the rules find in the traffic, and what becomes of the alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .board import Board, News
from .calls import Recovered, Report, ignored
from .lifecycle import Finding
from .rulebook import Rulebook
from .rules import Rule
from .store.records import AlertRecord
from .thresholds import Thresholds
from .traffic import Traffic


class Judge:
    """Decides, without waiting for anyone and without a clock.

    Args:
        rules: What is looked for.
        thresholds: Those that the windows are made for.
        interval: Seconds from one round to the next.
        cooldown: Seconds after which an alert that lasts is told again.
        max_subjects: Keys, masters and upstreams that are told apart.
        is_silenced: Whether nobody is to be told of a finding at some time of the day.
        report: Told of each rule that fails.
        recovered: Called with the same name for each rule that does not fail.

    Attributes:
        traffic: What is remembered.
        rules: Those that are asked.
        board: The alerts as they stand.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        thresholds: Thresholds,
        interval: float,
        cooldown: float,
        max_subjects: int,
        is_silenced: Callable[[Finding, float], bool],
        report: Report,
        recovered: Recovered = ignored,
    ) -> None:
        self.traffic = Traffic(thresholds, max_subjects=max_subjects)
        self.rules = Rulebook(rules, interval=interval, report=report, recovered=recovered)
        self.board = Board(self.rules.names, cooldown=cooldown, is_silenced=is_silenced)
        self._report = report
        self._recovered = recovered

    def decide(self, thresholds: Thresholds, now: float, at: float) -> tuple[list[News], bool]:
        """Take every alert one round on: what comes of it, and whether no rule has failed.

        Args:
            thresholds: What the rules compare with.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
        """
        self.traffic.roll(now)
        found = self.rules.find(self.traffic, thresholds, now)
        news: list[News] = []
        for name, findings in self.rules.explained(found, thresholds, now).items():
            try:
                news.append(self.board.advance(name, findings, now, at))
            except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                self._report(f"rule {name}", error)
            else:
                self._recovered(f"rule {name}")
        self.traffic.begin_round()
        return news, len(news) == len(self.rules.names)

    def preview(self, thresholds: Thresholds, now: float) -> list[Finding]:
        """What a round would find now, with these thresholds; nothing comes of it."""
        self.traffic.roll(now)
        with self.traffic.watching(thresholds):
            found = self.rules.find(self.traffic, thresholds, now)
        known = self.rules.explained(found, self.traffic.thresholds, now, remember=False)
        return [each for findings in known.values() for each in findings]

    def resume(self, records: Iterable[AlertRecord], now: float, at: float) -> News:
        """Go on with the alerts of the process before this one, and give what has changed."""
        news = News()
        for record in records:
            finding = self.board.resume(record, now=now, at=at, news=news)
            # One that is recovering was not found any more, and need not be found again.
            if finding is not None and record.state != "recovering":
                self.rules.resume(record.rule, self.traffic, finding)
        return news

    def retune(self, thresholds: Thresholds) -> None:
        """Go by other thresholds: the next round judges every alert by what is known then."""
        self.traffic.retune(thresholds)
        self.board.let_go()
