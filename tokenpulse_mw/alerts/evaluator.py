"""Evaluation of all rules, and of the alerts that result."""

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
    """Evaluates rules in bounded steps, without I/O and without a clock.

    Run one evaluation at a time.

    Args:
        rules: The rules.
        thresholds: Initial thresholds of the traffic windows.
        interval: Seconds between two evaluations.
        cooldown: Seconds between two reminders of an alert.
        max_subjects: Maximum number of keys, of tenants and of upstreams counted separately.
        is_silenced: Returns True if a silence matches a finding at a time.
        report: Called with the name of each rule that fails, and the error.
        recovered: Called with the name of each rule that succeeds.

    Attributes:
        traffic: Counts of the recent traffic.
        rules: The rules.
        tracker: The open alerts.
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
        self.tracker = AlertTracker(self.rules.names, cooldown=cooldown, is_silenced=is_silenced)
        self._report = report
        self._recovered = recovered

    def evaluate(
        self, thresholds: Thresholds, now: float, at: float
    ) -> Steps[tuple[list[AlertChanges], bool]]:
        """Evaluate every alert: return what changed, and True if no rule failed.

        All of it takes effect in the last step. If it is closed before, nothing has changed.

        Args:
            thresholds: The thresholds of the rules.
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
                    staged.append((yield from self.tracker.advance(name, findings, now, at)))
                except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                    self._report(f"rule {name}", error)
                else:
                    self._recovered(f"rule {name}")
            begin_next = yield from self.traffic.next_round()
            self.rules.remember(down)
            for outcome in staged:
                self.tracker.commit(outcome)
            begin_next()
        # No step between the commit and the return: a cancellation there would lose the changes.
        changes = [piece for outcome in staged for piece in outcome.news]
        return changes, len(staged) == len(self.rules.names)

    def dry_run(self, thresholds: Thresholds, now: float) -> Steps[list[Finding]]:
        """Return what an evaluation would find with these thresholds, without changing anything."""
        yield from self.traffic.settle()
        with self.traffic.frozen(now), self.traffic.keeping():
            yield from self.traffic.watch(thresholds)
            found = yield from self.rules.evaluate(self.traffic, thresholds, now)
            known, _ = yield from self.rules.apply_inhibition(found, self.traffic.thresholds, now)
        return [finding for findings in known.values() for finding in findings]

    def resume(
        self, records: Iterable[AlertRecord], now: float, at: float
    ) -> Steps[list[AlertChanges]]:
        """Continue with the alerts of the previous process, and return what has changed."""
        pieces = [AlertChanges()]
        for number, record in enumerate(records, 1):
            finding = self.tracker.resume(record, now=now, at=at, news=pieces[-1])
            # The rule no longer finds a recovering alert.
            if finding is not None and record.state != "recovering":
                self.rules.resume(record.rule, self.traffic, finding)
            if not number % STEP:
                pieces.append(AlertChanges())
                yield
        return pieces

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds; the next evaluation applies them to every alert."""
        yield from self.traffic.settle()
        with self.traffic.frozen(None):
            yield from self.traffic.set_thresholds(thresholds)
        yield from self.tracker.release_held()


Found = dict[str, list[Finding]]


# Upstreams that are or were down: fingerprint of the alert, and time of its last finding.
Down = dict[str, tuple[str, float]]


class RuleSet:
    """Rules that fail independently of each other.

    Args:
        rules: The rules in order of evaluation.
        interval: Seconds between two evaluations, and the timeout of a rule's `refresh`.
        report: Called with the name of each rule that fails, and the error.
        recovered: Called with the name of each refresh that succeeds.

    Attributes:
        names: Unique names of the rules: the second "rule" is "rule-2".
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
        """Await the `refresh` of each rule that has one, for at most an interval each."""
        for name, rule in self._rules.items():
            refresh = getattr(rule, "refresh", None)
            if refresh is not None:
                try:
                    await call_with_timeout(self._interval, refresh)
                except Exception as error:  # noqa: BLE001 - the rule keeps its last data
                    self._report(f"refresh of rule {name}", error)
                else:
                    self._recovered(f"refresh of rule {name}")

    def resume(self, name: str, traffic: Traffic, finding: Finding) -> None:
        """Pass a finding from before a restart to the `resume` of its rule."""
        resume = getattr(self._rules[name], "resume", None)
        if resume is not None:
            try:
                resume(traffic, finding)
            except Exception as error:  # noqa: BLE001 - the alert continues without it
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
            thresholds: The thresholds of the traffic windows.
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
        """Return the upstreams whose outages have left failures in the error windows.

        The error windows cover up to a tenth more, and are evaluated once in an interval.
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
        raise TypeError(f"a rule must return Finding objects or None, got {finding!r}")
    return finding


def check_distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names, with a number appended to each duplicate."""
    unique: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        unique[next(new for new in chain([name], numbered) if new not in unique)] = None
    return tuple(unique)
