"""The life cycle of an alert: every state and every transition is here, and nothing else is.

    (none) --finding--> pending --still there after `hold_for`--> firing
    firing --no finding for `keep_firing`--> (none), told as resolved

It is a pure function of what was, what a rule finds, and when: no clock, no I/O. An episode is
told as fired once and as resolved once; in between a change of severity is told at once, and the
same alert again only as a reminder. It gets worse at once; it gets better when what was found is
so far below the step it stood on that it does not swing around it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Severity = Literal["info", "warning", "critical"]


Transition = Literal["fired", "escalated", "deescalated", "reminded", "resolved"]


RANKS: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


class Subject(NamedTuple):
    """Whom an alert is about.

    Attributes:
        kind: "master", "key", "apikey", "provider" or "system".
        id: Identifies it among its kind.
        name: For people.
    """

    kind: str
    id: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule sees of one subject in one round.

    Attributes:
        type: The rule's name for it, such as "error_spike".
        subject: Whom it is about.
        severity: How bad it is. None: not bad enough to fire, but too bad to end an alert that
            fires; this is the room between the fire threshold and the resolve threshold.
        keeps: How bad an alert may stay that was worse: what is between `severity` and this is
            the same room below each step. None: it is `severity` at once.
        title: One line for people.
        message: One sentence for people.
        metric: Tells findings of one type about one subject apart.
        value: The number that was compared with a threshold.
        metadata: More of the same, for programs.
        hold_for: Seconds that it must last before it fires.
        keep_firing: Seconds that it must be gone before it is resolved.
        window: Seconds that the rule looks back. After a restart it finds nothing until it has
            seen traffic again, so an alert from before is not over until that time has passed.
    """

    type: str
    subject: Subject
    severity: Severity | None
    title: str
    message: str
    metric: str = ""
    value: float = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    hold_for: float = 0
    keep_firing: float = 0
    window: float = 60
    keeps: Severity | None = None
    fingerprint: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = (self.type, self.metric, self.subject.kind, self.subject.id)
        text = ":".join(str(part) for part in parts if part)
        if not text.isascii():  # a lone surrogate would not come back unchanged from a store
            text = text.encode("utf-8", "replace").decode()
        object.__setattr__(self, "fingerprint", text)

    @property
    def rank(self) -> int:
        """How bad it is, to be compared: -1 where it has no severity."""
        return rank_of(self.severity)

    def after(self, before: Finding) -> Finding:
        """The same, as bad as an alert is of which `before` was found last."""
        stays = min(before.severity, self.keeps, key=rank_of)
        return self if rank_of(stays) <= self.rank else replace(self, severity=stays)


def rank_of(severity: Severity | None) -> int:
    """How bad `severity` is, to be compared."""
    return -1 if severity is None else RANKS[severity]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as it stands.

    Attributes:
        finding: What was last found bad enough to fire; its severity is the alert's.
        state: "pending", "firing", or "recovering" (firing still, but not found any more).
        since: When it entered this state, in seconds of the engine's clock.
        notified_at: When it was last told to anyone.
    """

    finding: Finding
    state: Literal["pending", "firing", "recovering"]
    since: float
    notified_at: float


Step = tuple[Alert | None, Transition | None]


def step(alert: Alert | None, finding: Finding | None, *, now: float, cooldown: float) -> Step:
    """One round of one alert.

    Args:
        alert: The alert as it stood, or None where there was none.
        finding: What the rule finds now, or None where it finds nothing.
        now: Seconds, of the same clock as in `alert`.
        cooldown: Seconds after which an alert that lasts is told again.

    Returns:
        The alert as it stands now, and what to tell of it, if anything.
    """
    bad = finding is not None and finding.severity is not None
    if alert is None or alert.state == "pending":
        # Only what lasts gets to fire; a pending alert that goes away is nobody's business.
        return _approach(alert, finding, now) if finding is not None and bad else (None, None)
    if finding is None:
        return _recover(alert, now)
    firing = alert if alert.state == "firing" else replace(alert, state="firing", since=now)
    return _continue(firing, finding, now, cooldown) if bad else (firing, None)


def _approach(alert: Alert | None, finding: Finding, now: float) -> Step:
    since = now if alert is None else alert.since
    if now - since < finding.hold_for:
        return Alert(finding, "pending", since, now), None
    return Alert(finding, "firing", now, now), "fired"


def _continue(alert: Alert, finding: Finding, now: float, cooldown: float) -> Step:
    told: Transition | None = None
    finding = finding.after(alert.finding)
    change = finding.rank - alert.finding.rank
    if change:
        told = "escalated" if change > 0 else "deescalated"
    elif now - alert.notified_at >= cooldown:
        told = "reminded"
    elif finding == alert.finding:
        return alert, None
    return replace(alert, finding=finding, notified_at=now if told else alert.notified_at), told


def _recover(alert: Alert, now: float) -> Step:
    recovering = alert
    if alert.state == "firing":
        recovering = replace(alert, state="recovering", since=now)
    if now - recovering.since >= alert.finding.keep_firing:
        return None, "resolved"
    return recovering, None


NAMES = ("alertname", "severity", "subject_kind", "subject_id", "metric", "provider")


def labels_of(finding: Finding, severity: Severity | None) -> dict[str, str]:
    """All labels of an alert that has, or had, this severity; those it has not are empty."""
    subject = finding.subject
    values = (
        finding.type,
        severity or "",
        subject.kind,
        subject.id,
        finding.metric,
        _provider(finding),
    )
    return dict(zip(NAMES, map(str, values), strict=True))


def _provider(finding: Finding) -> str:
    """The provider that the alert is about, where it is about one."""
    subject = finding.subject
    if subject.kind in ("provider", "apikey"):
        return subject.id if subject.kind == "provider" else subject.name
    provider = finding.metadata.get("provider")
    return provider if isinstance(provider, str) else ""
