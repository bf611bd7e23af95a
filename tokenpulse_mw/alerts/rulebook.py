"""The rules of an engine: their names, and what all of them find in a round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, count

from .calls import Recovered, Report, ignored, within
from .lifecycle import Finding
from .rules import Rule, inhibited, outages, rule_name
from .steps import STEP, Steps, batches
from .thresholds import Thresholds
from .traffic import Traffic

Found = dict[str, list[Finding]]
# Upstreams that are or were down: the alert that reports it, and when it was last found.
Down = dict[str, tuple[str, float]]


class Rulebook:
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
        self.names = distinct(rule_name(rule) for rule in rules)
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
                    await within(self._interval, refresh)
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

    def find(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Steps[Found]:
        """Return what each rule finds, by its name; a rule that raises is left out."""
        found: Found = {}
        for name, rule in self._rules.items():
            try:
                found[name] = yield from _collect(rule(traffic, thresholds, now))
            except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                self._report(f"rule {name}", error)
        return found

    def explained(
        self, found: Found, thresholds: Thresholds, now: float
    ) -> Steps[tuple[Found, Down]]:
        """Return the findings, inhibited by current and recent outages, and these outages.

        Args:
            found: What `find` returned.
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
        """Count the outages that `explained` returned as recent ones from now on."""
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


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, of which those that were there already are numbered."""
    made: dict[str, None] = {}
    for name in names:
        others = (f"{name}-{number}" for number in count(2))
        made[next(each for each in chain([name], others) if each not in made)] = None
    return tuple(made)
