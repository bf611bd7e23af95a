"""What a round decides: what the rules find in the traffic, and what becomes of the alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count

from .lifecycle import Finding
from .rules import Rule, inhibited, outages, rule_name
from .steps import STEP, Steps, batches
from .store.records import AlertRecord
from .thresholds import Thresholds
from .timeouts import Recovered, Report, call_with_timeout, ignored
from .tracker import AlertChanges, AlertTracker, Staged
from .traffic.traffic import Traffic


class Evaluator:
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
        self.rules = RuleSet(rules, interval=interval, report=report, recovered=recovered)
        self.board = AlertTracker(self.rules.names, cooldown=cooldown, is_silenced=is_silenced)
        self._report = report
        self._recovered = recovered

    def evaluate(
        self, thresholds: Thresholds, now: float, at: float
    ) -> Steps[tuple[list[AlertChanges], bool]]:
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
            found = yield from self.rules.evaluate(self.traffic, thresholds, now)
            explained, down = yield from self.rules.apply_inhibition(found, thresholds, now)
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

    def dry_run(self, thresholds: Thresholds, now: float) -> Steps[list[Finding]]:
        """Return what an evaluation would find with these thresholds, without changing anything."""
        yield from self.traffic.settle()
        with self.traffic.frozen(now), self.traffic.keeping():
            yield from self.traffic.watch(thresholds)
            found = yield from self.rules.evaluate(self.traffic, thresholds, now)
            known, _ = yield from self.rules.apply_inhibition(found, self.traffic.thresholds, now)
        return [each for findings in known.values() for each in findings]

    def resume(
        self, records: Iterable[AlertRecord], now: float, at: float
    ) -> Steps[list[AlertChanges]]:
        """Continue with the alerts of the previous process, and return what has changed."""
        pieces = [AlertChanges()]
        for number, record in enumerate(records, 1):
            finding = self.board.resume(record, now=now, at=at, news=pieces[-1])
            # An alert that is recovering was not found any more, and need not be found again.
            if finding is not None and record.state != "recovering":
                self.rules.resume(record.rule, self.traffic, finding)
            if not number % STEP:
                pieces.append(AlertChanges())
                yield
        return pieces

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds: the next evaluation judges every alert by current data."""
        yield from self.traffic.settle()
        with self.traffic.frozen(None):
            yield from self.traffic.set_thresholds(thresholds)
        yield from self.board.release_held()


Found = dict[str, list[Finding]]


# Upstreams that are or were down: the alert that reports it, and when it was last found.
Down = dict[str, tuple[str, float]]


class RuleSet:
    """Asks rules, so that none that fails costs the others.

    Args:
        rules: In the order in which they are asked.
        interval: Seconds between two rounds; a rule's `refresh` may take as long.
        report: Told of each that fails.
        recovered: Called with the same name for each refresh that does not fail.

    Attributes:
        names: Of the rules, each its own: the second "rule" is "rule-2".
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        interval: float,
        report: Report,
        recovered: Recovered = ignored,
    ) -> None:
        rules = tuple(rules)
        self.names = check_distinct(rule_name(rule) for rule in rules)
        self._rules = dict(zip(self.names, rules, strict=True))
        self._interval = interval
        self._report = report
        self._recovered = recovered
        self._down: Down = {}

    def __iter__(self) -> Iterator[tuple[str, Rule]]:
        return iter(self._rules.items())

    async def refresh(self) -> None:
        """Let those rules that have to ask somebody do so, each for an interval at most."""
        for name, rule in self._rules.items():
            refresh = getattr(rule, "refresh", None)
            if refresh is not None:
                try:
                    await call_with_timeout(self._interval, refresh)
                except Exception as error:  # noqa: BLE001 - what it knew before counts still
                    self._report(f"refresh of rule {name}", error)
                else:
                    self._recovered(f"refresh of rule {name}")

    def resume(self, name: str, traffic: Traffic, finding: Finding) -> None:
        """Let a rule take up what it had found before a restart."""
        resume = getattr(self._rules[name], "resume", None)
        if resume is not None:
            try:
                resume(traffic, finding)
            except Exception as error:  # noqa: BLE001 - the alert goes on without
                self._report(f"rule {name}", error)

    def evaluate(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Steps[Found]:
        """Return what each rule finds, by its name; a rule that raises is left out."""
        found: Found = {}
        for name, rule in self._rules.items():
            try:
                found[name] = yield from _collect(rule(traffic, thresholds, now))
            except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                self._report(f"rule {name}", error)
        return found

    def apply_inhibition(
        self, found: Found, thresholds: Thresholds, now: float
    ) -> Steps[tuple[Found, Down]]:
        """Return the findings, inhibited by current and recent outages, and these outages.

        Args:
            found: What `evaluate` returned.
            thresholds: Those that the windows are made for.
            now: Seconds of the engine's clock.
        """
        seen = self._down
        if not seen and not any(found.values()):
            return found, seen
        try:
            longest = 1.1 * thresholds.error_window + self._interval
            seen = yield from self._lately_down(found, longest, now)
            causes = {name: by for name, (by, _) in seen.items()}
            explained: Found = {}
            for name, findings in found.items():
                explained[name] = []
                for batch in batches(findings):
                    explained[name] += inhibited(batch, down=causes)
                    if len(batch) == STEP:
                        yield
        except Exception as error:  # noqa: BLE001 - a rule may put anything into its metadata
            self._report("inhibition", error)
            return found, seen
        return explained, seen

    def remember(self, down: Down) -> None:
        """Count the outages that `apply_inhibition` returned as recent ones from now on."""
        self._down = down

    def _lately_down(self, found: Found, longest: float, now: float) -> Steps[Down]:
        """Return the upstreams whose outages have left failures in the windows of shares.

        A window keeps its oldest step, and is evaluated once in an interval.
        """
        seen = dict(self._down)
        for findings in found.values():
            for batch in batches(findings, 10 * STEP):
                seen |= {name: (by, now) for name, by in outages(batch).items()}
                if len(batch) == 10 * STEP:
                    yield
        return {name: (by, at) for name, (by, at) in seen.items() if now - at <= longest}


def _collect(findings: Iterable[Finding | None]) -> Steps[list[Finding]]:
    found = list[Finding]()
    for batch in batches(findings):
        found += [_checked(each) for each in batch if each is not None]
        if len(batch) == STEP:
            yield
    return found


def _checked(finding: object) -> Finding:
    if not isinstance(finding, Finding):
        raise TypeError(f"a rule must give findings, got {finding!r}")
    return finding


def check_distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, of which those that were there already are numbered."""
    made: dict[str, None] = {}
    for name in names:
        others = (f"{name}-{number}" for number in count(2))
        made[next(each for each in chain([name], others) if each not in made)] = None
    return tuple(made)
