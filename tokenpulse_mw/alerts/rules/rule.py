"""What a rule is, and how the subjects of findings are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..lifecycle import Finding, Severity, Subject
from ..thresholds import Thresholds
from ..traffic.traffic import GATEWAY, Traffic

# Called once in each evaluation. It may return None for each subject without a finding: other tasks
# run after each 50 items. The traffic does not change before the last of them. It may have
#   name                       what it is called
#   async refresh()            awaited before each round
#   resume(traffic, finding)   told after a restart of each alert that it had found before
Rule = Callable[[Traffic, Thresholds, float], Iterable[Finding | None]]

# From where on it is how bad, the worst first.
Steps = Sequence[tuple[float, Severity]]


def rule_name(rule: Rule) -> str:
    """What `rule` is called: by its own word, else as a function, else as an object."""
    name = getattr(rule, "name", None) or getattr(rule, "__name__", None)
    return str(name or type(rule).__name__)


def severity_for(value: float, steps: Steps, part: float = 1) -> Severity | None:
    """The worst of `steps` of which `value` is at least so large a part."""
    return next((severity for least, severity in steps if value >= least * part), None)


def subject_of(kind: str, identity: str) -> Subject:
    """Whom an alert is about; the gateway itself where nobody was named."""
    if identity == GATEWAY:
        return Subject("system", "0", "gateway")
    return Subject(kind, identity, identity if kind == "provider" else "")


def display_name(subject: Subject) -> str:
    """`subject` for people; an id is quoted, as it may hold anything that a client sent."""
    if subject.kind == "system":
        return "The gateway"
    return f"{subject.kind.title()} {subject.id!r}"
