"""Evaluation of all rules, and of the alerts that result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count
from urllib.parse import quote

import msgspec

from .lifecycle import Finding
from .rules import Rule, inhibited, outages, rule_name
from .steps import STEP, Steps, batches, mapped
from .store.records import AlertRecord, WindowRecord
from .thresholds import Thresholds
from .timeouts import Recovered, Report, call_with_timeout, ignored
from .tracker import AlertChanges, AlertTracker, Staged
from .traffic.bucket import PROTOCOL, ReportKey, Usage, merge_reports
from .traffic.traffic import Traffic

logger = logging.getLogger("tokenpulse_mw.alerts")

_OUTAGES = "outages"  # kind of a window record
_REPORT_INTERVALS = 2.5  # for which the reports of a process are used

Findings = dict[str, list[Finding]]  # by name of the rule


# By upstream that is or was down: fingerprint of its alert, and time of the last finding.
Outages = dict[str, tuple[str, float]]


class Evaluator:
    """Evaluates rules in bounded steps, without I/O and without a clock.

    Run one evaluation at a time, and count no traffic during it.

    Args:
        rules: The rules.
        thresholds: Initial thresholds of the traffic windows.
        cooldown: Seconds between two reminders of an alert.
        max_subjects: Maximum number of keys, of tenants and of upstreams counted separately.
        bucket_seconds: Length of the slots in which the processes count.
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
        rules: RuleSet,
        thresholds: Thresholds,
        *,
        cooldown: float,
        max_subjects: int,
        bucket_seconds: int,
        is_silenced: Callable[[Finding, float], Steps[bool]],
        report: Report,
        recovered: Recovered = ignored,
    ) -> None:
        self._new_traffic = partial(
            Traffic,
            max_subjects=max_subjects,
            bucket_seconds=bucket_seconds,
            report_seconds=_REPORT_INTERVALS * rules.interval,
        )
        self.traffic = self._new_traffic(thresholds)
        self.rules = rules
        self._outages: Outages = {}
        self.tracker = AlertTracker(self.rules.names, cooldown=cooldown, is_silenced=is_silenced)
        self._report = report
        self._recovered = recovered

    @property
    def overflowed(self) -> int:
        """Number of `__overflow__` events and of findings above the alert limit."""
        return self.traffic.overflowed + self.tracker.overflowed

    def evaluate(
        self, thresholds: Thresholds, now: float, at: float
    ) -> Steps[tuple[list[AlertChanges], bool]]:
        """Evaluate every alert; return the changes, and True if no rule failed.

        The outcome takes effect in the last step. If the generator is closed before, nothing
        changes.

        Args:
            thresholds: The thresholds of the rules.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
        """
        staged: list[Staged] = []
        findings_by_rule = yield from self.rules.evaluate(
            self.traffic, thresholds, now, self._report
        )
        result, recent = yield from self.rules.apply_inhibition(
            findings_by_rule, self._outages, thresholds, now, self._report
        )
        for name in list(result):
            findings = result.pop(name)
            try:
                staged.append((yield from self.tracker.advance(name, findings, now, at)))
            except Exception as error:  # noqa: BLE001 - a failing rule must not affect the others
                self._report(f"rule {name}", error)
            else:
                self._recovered(f"rule {name}")
            yield from _free(findings, findings_by_rule.pop(name, []))
        begin_next = yield from self.traffic.prepare_next_evaluation()
        self._outages = recent
        for outcome in staged:
            self.tracker.commit(outcome)
        begin_next()
        # No step between the commit and the return: a cancellation there would lose the changes.
        changes = [part for outcome in staged for part in outcome.changes]
        return changes, len(staged) == len(self.rules.names)

    def dry_run(self, thresholds: Thresholds, now: float, report: Report) -> Steps[list[Finding]]:
        """Return the findings of an evaluation with these thresholds, without changing anything.

        Failures are only reported to `report`.
        """
        with self.traffic.preserve_levels():
            yield from self.traffic.set_levels(thresholds)
            findings_by_rule = yield from self.rules.evaluate(self.traffic, thresholds, now, report)
            windows = self.traffic.thresholds
            result, _ = yield from self.rules.apply_inhibition(
                findings_by_rule, self._outages, windows, now, report
            )
        return [finding for findings in result.values() for finding in findings]

    def restore_windows(
        self, records: Sequence[WindowRecord], shift: float, *, fleet_time: float
    ) -> Steps[bool]:
        """Replace windows and recent outages with stored ones; return False if one was skipped.

        Args:
            records: The stored windows.
            shift: Seconds to add to a time since the epoch for one of the engine's clock.
            fleet_time: Current time of the windows.
        """
        self.traffic = self._new_traffic(self.traffic.thresholds)
        self._outages = {}
        skipped = yield from self.traffic.restore(records, fleet_time)
        for record in records:
            if record.kind == _OUTAGES:
                try:
                    stored = msgspec.msgpack.decode(record.payload, type=Outages)
                except ValueError as error:
                    logger.error("stored outages are invalid, ignoring them: error=%s", error)
                else:
                    self._outages = _shifted(stored, shift)
        return not skipped

    def outages_record(self, shift: float) -> WindowRecord:
        """Return the recent outages, which `restore_windows` restores.

        Args:
            shift: Seconds to add to a time of the engine's clock for one since the epoch.
        """
        payload = msgspec.msgpack.encode(_shifted(self._outages, shift))
        return WindowRecord(_OUTAGES, 0, PROTOCOL, payload)

    def resume(
        self, records: Iterable[AlertRecord], now: float, at: float, *, complete_since: float
    ) -> Steps[list[AlertChanges]]:
        """Restore the alerts of the previous leader, and return the changes.

        Args:
            records: The alerts.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
            complete_since: Time from which the traffic windows are complete.
        """
        parts = [AlertChanges()]
        for number, record in enumerate(records, 1):
            finding = self.tracker.resume(
                record, now=now, at=at, changes=parts[-1], complete_since=complete_since
            )
            # The rule no longer finds a recovering alert.
            if finding is not None and record.state != "recovering":
                self.rules.resume(record.rule, self.traffic, finding)
            if not number % STEP:
                parts.append(AlertChanges())
                yield
        return parts

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds; the next evaluation applies them to every alert."""
        yield from self.traffic.set_thresholds(thresholds)
        yield from self.tracker.release_held()


class RuleSet:
    """Rules that fail independently of each other.

    Args:
        rules: The rules in order of evaluation.
        interval: Seconds between two evaluations, and the timeout of a rule's `refresh`.
        runbook_url: URL of a page that has a section for each type of alerts, to which findings
            without `runbook_url` in their metadata link; None for no links.
        report: Called with the name of each rule that fails, and the error.
        recovered: Called with the name of each refresh that succeeds.

    Attributes:
        names: Unique names of the rules: the second "rule" is "rule-2".
        interval: Seconds between two evaluations.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        *,
        interval: float,
        report: Report,
        recovered: Recovered = ignored,
        runbook_url: str | None = None,
    ) -> None:
        rules = tuple(rules)
        self.names = check_distinct(rule_name(rule) for rule in rules)
        self._rules = dict(zip(self.names, rules, strict=True))
        self.interval = interval
        self._report = report
        self._recovered = recovered
        self._runbook_url = runbook_url
        self._is_refreshed = False

    def __iter__(self) -> Iterator[tuple[str, Rule]]:
        return iter(self._rules.items())

    async def refresh(self) -> None:
        """Await the `refresh` of each rule that has one, for at most an interval each."""
        self._is_refreshed = True
        await self._refresh(self._report, self._recovered)

    async def preview_refresh(self, report: Report) -> None:
        """Refresh for a dry run: only before the first `refresh`, since failures would count."""
        if not self._is_refreshed:
            await self._refresh(report, ignored)

    async def _refresh(self, report: Report, recovered: Recovered) -> None:
        for name, rule in self._rules.items():
            refresh = getattr(rule, "refresh", None)
            if refresh is not None:
                try:
                    await call_with_timeout(self.interval, refresh)
                except Exception as error:  # noqa: BLE001 - the rule keeps its last data
                    report(f"refresh of rule {name}", error)
                else:
                    recovered(f"refresh of rule {name}")

    async def report(self) -> dict[ReportKey, Usage]:
        """Return what the rules of this process report to the leader."""
        reports: dict[ReportKey, Usage] = {}
        for name, rule in self._rules.items():
            report = getattr(rule, "report", None)
            if report is not None:
                try:
                    merge_reports(reports, await call_with_timeout(self.interval, report))
                except Exception as error:  # noqa: BLE001 - the next report may succeed
                    self._report(f"report of rule {name}", error)
                else:
                    self._recovered(f"report of rule {name}")
        return reports

    def resume(self, name: str, traffic: Traffic, finding: Finding) -> None:
        """Pass a finding from before a restart to the `resume` of its rule."""
        resume = getattr(self._rules[name], "resume", None)
        if resume is not None:
            try:
                resume(traffic, finding)
            except Exception as error:  # noqa: BLE001 - the alert continues without it
                self._report(f"rule {name}", error)

    def evaluate(
        self, traffic: Traffic, thresholds: Thresholds, now: float, report: Report
    ) -> Steps[Findings]:
        """Return the findings of each rule by its name, without the rules that raised."""
        findings_by_rule: Findings = {}
        for name, rule in self._rules.items():
            try:
                findings = yield from _collect(rule(traffic, thresholds, now))
                if self._runbook_url is not None:
                    findings = yield from mapped(self._linked, findings)
                findings_by_rule[name] = findings
            except Exception as error:  # noqa: BLE001 - a failing rule must not affect the others
                report(f"rule {name}", error)
        return findings_by_rule

    def _linked(self, finding: Finding) -> Finding:
        """Return the finding with the section of its type in the runbook."""
        url = f"{self._runbook_url}#{quote(finding.type, safe='', errors='replace')}"
        return replace(finding, metadata={"runbook_url": url, **finding.metadata})

    def apply_inhibition(
        self,
        findings_by_rule: Findings,
        recent: Outages,
        thresholds: Thresholds,
        now: float,
        report: Report,
    ) -> Steps[tuple[Findings, Outages]]:
        """Return the findings, inhibited by current and recent outages, and these outages.

        Args:
            findings_by_rule: Result of `evaluate`.
            recent: The outages that the last call has returned.
            thresholds: The thresholds of the traffic windows.
            now: Seconds of the engine's clock.
            report: Called with a failure.
        """
        if not recent and not any(findings_by_rule.values()):
            return findings_by_rule, recent
        try:
            max_age = 1.1 * thresholds.error_window + self.interval
            recent = yield from _recent_outages(findings_by_rule, recent, max_age, now)
            down = {upstream: fingerprint for upstream, (fingerprint, _) in recent.items()}
            result: Findings = {}
            for name, findings in findings_by_rule.items():
                result[name] = []
                for batch in batches(findings):
                    result[name] += inhibited(batch, down=down)
                    if len(batch) == STEP:
                        yield
        except Exception as error:  # noqa: BLE001 - a rule may put anything into its metadata
            report("inhibition", error)
            return findings_by_rule, recent
        return result, recent


def _recent_outages(
    findings_by_rule: Findings, recent: Outages, max_age: float, now: float
) -> Steps[Outages]:
    """Return the upstreams whose outages have left failures in the error windows.

    The error windows cover up to a tenth more than their name says, and are evaluated once in an
    interval.
    """
    recent = dict(recent)
    for findings in findings_by_rule.values():
        for batch in batches(findings, 10 * STEP):
            recent |= {upstream: (alert, now) for upstream, alert in outages(batch).items()}
            if len(batch) == 10 * STEP:
                yield
    return {
        upstream: (alert, at) for upstream, (alert, at) in recent.items() if now - at <= max_age
    }


def _shifted(recent: Outages, seconds: float) -> Outages:
    return {upstream: (alert, at + seconds) for upstream, (alert, at) in recent.items()}


def _free(*lists: list[Finding]) -> Steps[None]:
    """Free findings that are no longer used: 100,000 at once take 40 ms."""
    for findings in lists:
        while findings:
            del findings[-20 * STEP :]
            if findings:
                yield


def _collect(findings: Iterable[Finding | None]) -> Steps[list[Finding]]:
    collected = list[Finding]()
    for batch in batches(findings):
        collected += [_checked(finding) for finding in batch if finding is not None]
        if len(batch) == STEP:
            yield
    return collected


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
