"""What a round decides: what the rules find in the traffic, and what becomes of the alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .board import Board, News, Staged
from .calls import Recovered, Report, ignored
from .lifecycle import Finding
from .rulebook import Rulebook
from .rules import Rule
from .steps import STEP, Steps
from .store.records import AlertRecord
from .thresholds import Thresholds
from .traffic import Traffic


class Judge:
    """Decides in bounded steps, without I/O and without a clock. One decision at a time.

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
        is_silenced: Callable[[Finding, float], Steps[bool]],
        report: Report,
        recovered: Recovered = ignored,
    ) -> None:
        self.traffic = Traffic(thresholds, max_subjects=max_subjects)
        self.rules = Rulebook(rules, interval=interval, report=report, recovered=recovered)
        self.board = Board(self.rules.names, cooldown=cooldown, is_silenced=is_silenced)
        self._report = report
        self._recovered = recovered

    def decide(
        self, thresholds: Thresholds, now: float, at: float
    ) -> Steps[tuple[list[News], bool]]:
        """Evaluate every alert: return what changed, and True if no rule failed.

        All of it takes effect in the last step. If it is closed before, nothing has changed.

        Args:
            thresholds: What the rules compare with.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
        """
        yield from self.traffic.settle()
        staged: list[Staged] = []
        with self.traffic.frozen(now):
            found = yield from self.rules.find(self.traffic, thresholds, now)
            explained, down = yield from self.rules.explained(found, thresholds, now)
            for name, findings in explained.items():
                try:
                    staged.append((yield from self.board.advance(name, findings, now, at)))
                except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                    self._report(f"rule {name}", error)
                else:
                    self._recovered(f"rule {name}")
            next_round = yield from self.traffic.next_round()
            self.rules.remember(down)
            for each in staged:
                self.board.commit(each)
            next_round()
        # No step between the commit and the return: if it were cancelled, the news would be lost.
        news = [piece for each in staged for piece in each.news]
        return news, len(staged) == len(self.rules.names)

    def preview(self, thresholds: Thresholds, now: float) -> Steps[list[Finding]]:
        """Return what an evaluation would find with these thresholds, without changing anything."""
        yield from self.traffic.settle()
        with self.traffic.frozen(now), self.traffic.keeping():
            yield from self.traffic.watch(thresholds)
            found = yield from self.rules.find(self.traffic, thresholds, now)
            known, _ = yield from self.rules.explained(found, self.traffic.thresholds, now)
        return [each for findings in known.values() for each in findings]

    def resume(self, records: Iterable[AlertRecord], now: float, at: float) -> Steps[list[News]]:
        """Continue with the alerts of the previous process, and return what has changed."""
        pieces = [News()]
        for number, record in enumerate(records, 1):
            finding = self.board.resume(record, now=now, at=at, news=pieces[-1])
            # An alert that is recovering was not found any more, and need not be found again.
            if finding is not None and record.state != "recovering":
                self.rules.resume(record.rule, self.traffic, finding)
            if not number % STEP:
                pieces.append(News())
                yield
        return pieces

    def retune(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds: the next evaluation judges every alert by current data."""
        yield from self.traffic.settle()
        with self.traffic.frozen(None):
            yield from self.traffic.retune(thresholds)
        yield from self.board.let_go()
