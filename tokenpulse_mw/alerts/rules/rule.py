"""The `Rule` type, and helpers that rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..lifecycle import Finding, Severity, Subject
from ..thresholds import Thresholds
from ..traffic.traffic import GATEWAY, Traffic

# Called once in each evaluation. It may yield None for a subject without a finding; other tasks
# run after each 50 items. The traffic does not change meanwhile. Optional attributes:
#   name                       name of the rule
#   async refresh()            awaited before each evaluation
#   resume(traffic, finding)   called after a restart with the finding of each restored alert
Rule = Callable[[Traffic, Thresholds, float], Iterable[Finding | None]]

# Lower bounds of severities, the worst severity first.
Steps = Sequence[tuple[float, Severity]]


def rule_name(rule: Rule) -> str:
    """Return the `name` of a rule, or the name of its function or class."""
    name = getattr(rule, "name", None) or getattr(rule, "__name__", None)
    return str(name or type(rule).__name__)


def severity_for(value: float, steps: Steps, ratio: float = 1) -> Severity | None:
    """Return the worst severity whose bound, times `ratio`, `value` reaches."""
    return next((severity for least, severity in steps if value >= least * ratio), None)


def subject_of(kind: str, identity: str) -> Subject:
    """Return the subject of an alert; the gateway if `identity` is empty."""
    if identity == GATEWAY:
        return Subject("system", "0", "gateway")
    return Subject(kind, identity, identity if kind == "provider" else "")


def display_name(subject: Subject) -> str:
    """Return the display name; ids are quoted, because clients may have chosen them."""
    if subject.kind == "system":
        return "The gateway"
    return f"{subject.kind.title()} {subject.id!r}"
