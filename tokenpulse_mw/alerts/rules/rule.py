"""The `Rule` type, and helpers that rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..lifecycle import GLOBAL, Finding, Severity, Subject
from ..thresholds import Thresholds
from ..traffic import OVERFLOW
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


def subject_of(kind: str, identity: str, name: str = "") -> Subject:
    """Return the subject of an alert; the whole gateway if `identity` is empty."""
    if identity == GATEWAY:
        return GLOBAL
    if identity == OVERFLOW:  # the subjects beyond `max_subjects`
        return Subject(kind, identity, "all others")
    return Subject(kind, identity, identity if kind == "provider" else name)


def display_name(subject: Subject) -> str:
    """Return the name in quotes, or the id if it has no name: clients may have chosen them."""
    if subject == GLOBAL:
        return "The gateway"
    return f"{subject.kind.title()} {(subject.name or subject.id)!r}"


def name_with_id(subject: Subject) -> str:
    """Return the name in quotes and the id, in the words of the seed."""
    if subject.kind == "key" and subject.id != OVERFLOW:
        return f"Key ID {escaped(subject.id)}"
    if subject.name in ("", subject.id) or subject == GLOBAL:
        return display_name(subject)
    return f"{display_name(subject)} (ID: {escaped(subject.id)})"


class Owner(NamedTuple):
    """The tenant of a key; empty texts if unknown."""

    id: str = ""
    name: str = ""

    @property
    def metadata(self) -> dict[str, object]:
        """Return id and name for the metadata of a finding, if the name is known."""
        return {"master": self.id, "master_name": self.name} if self.name else {}

    def suffix(self, key: str) -> str:
        """Return the tenant in parentheses, to follow `key`, whose id is not repeated."""
        if not self.name:
            return f" (Master {escaped(self.id)})" if self.id else ""
        identity = "" if self.id == key else f", ID: {escaped(self.id)}"
        return f" (Master {self.name!r}{identity})"


def owner_of(traffic: Traffic, key: str) -> Owner:
    """Return the tenant that was annotated together with an API key, if its name is known."""
    tenant = traffic.key_tenants.get(key, "")
    name = traffic.tenant_names.get(tenant, "")
    return Owner(tenant, name) if name else Owner()


def owner_of_limit(traffic: Traffic, key: str) -> Owner:
    """Return the tenant of the key of a limit, which is the id of a tenant or of an API key.

    If it is the id of both, and not of the same tenant, the tenant is unknown.
    """
    owner = owner_of(traffic, key)
    name = traffic.tenant_names.get(key, "")
    if not name:
        return owner
    return Owner(key, name) if owner.id in ("", key) else Owner()


def escaped(text: str) -> str:
    """Return `text` without control characters, as in `repr` but without quotes."""
    return repr(text)[1:-1]


def duration_text(seconds: float) -> str:
    """Return a duration as in the seed, such as 5m0s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{text}{rest:g}s"
