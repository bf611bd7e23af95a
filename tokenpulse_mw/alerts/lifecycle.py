"""Life cycle of an alert: its states and transitions, without clock or I/O.

    (none) --finding--> pending --found for `hold_for`--> firing
    firing --not found--> recovering --not found for `keep_firing`--> (none), resolved

An episode fires once and is resolved once. In between, a change of severity is reported at once,
and an unchanged alert only as a reminder. A higher severity takes effect at once; a lower one only
when the value is clearly below the step of the current severity (hysteresis).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Severity = Literal["info", "warning", "critical"]


Transition = Literal["fired", "escalated", "deescalated", "reminded", "resolved"]


RANKS: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}

_LINK = re.compile("https?://[!-~]{1,2000}")


class Subject(NamedTuple):
    """The subject of an alert.

    Attributes:
        kind: "master", "key", "apikey", "provider", "budget", "route" or "system".
        id: Unique among its kind.
        name: Display name.
    """

    kind: str
    id: str
    name: str = ""


GLOBAL = Subject("system", "0", "global")  # the whole gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem of one subject, found by a rule in one evaluation.

    Attributes:
        type: Type of the alert, such as "error_spike".
        subject: The affected subject.
        severity: The severity. None: between the fire and the resolve threshold; this does not
            fire, but keeps a firing alert from being resolved.
        title: One line for people.
        message: One sentence for people.
        metric: Distinguishes findings of one type and subject.
        value: The number that was compared with a threshold.
        metadata: Further values for programs.
        hold_for: Seconds that the finding must last before it fires.
        keep_firing: Seconds that the finding must be absent before the alert is resolved.
        window: Seconds of traffic that the rule looks at. After a restart the rule has no traffic,
            so a restored alert is not resolved before this time has passed.
        keeps: The highest severity that an alert may keep if it was worse before (hysteresis).
            None: the alert takes `severity` at once.
        fingerprint: Identifies the alert over its life, in the format of the seed. A kind that
            equals the type is left out.
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
        kind = "" if self.subject.kind == self.type else self.subject.kind
        parts = (self.type, self.metric, kind, self.subject.id)
        text = ":".join(str(part) for part in parts if part)
        if not text.isascii():  # a lone surrogate would not come back unchanged from a store
            text = text.encode("utf-8", "replace").decode()
        object.__setattr__(self, "fingerprint", text)

    @property
    def runbook_url(self) -> str | None:
        """The URL of a page about this alert in the metadata, if it has one."""
        url = self.metadata.get("runbook_url")
        return url if isinstance(url, str) and _LINK.fullmatch(url) else None

    @property
    def rank(self) -> int:
        """The rank of the severity; -1 without a severity."""
        return rank_of(self.severity)

    def after(self, before: Finding) -> Finding:
        """Return the finding with severity and provider of an alert that had `before`.

        The provider of a credential may become known while the alert fires. It is a label, and
        with other labels a receiver would have another alert.
        """
        finding, provider = self, _provider(before)
        if _provider(self) != provider:
            finding = replace(self, metadata={**self.metadata, "provider": provider})
        severity = min(before.severity, self.keeps, key=rank_of)
        return finding if rank_of(severity) <= self.rank else replace(finding, severity=severity)


def rank_of(severity: Severity | None) -> int:
    """Return a number that orders severities; -1 for None."""
    return -1 if severity is None else RANKS[severity]


@dataclass(frozen=True, slots=True)
class Alert:
    """The state of an alert.

    Attributes:
        finding: The last finding with a severity, which is the alert's.
        state: "pending", "firing", or "recovering" (still firing, but no longer found).
        since: Start of this state, in seconds of the engine's clock.
        notified_at: Time of the last transition, in seconds of the engine's clock.
    """

    finding: Finding
    state: Literal["pending", "firing", "recovering"]
    since: float
    notified_at: float


Step = tuple[Alert | None, Transition | None]


def step(alert: Alert | None, finding: Finding | None, *, now: float, cooldown: float) -> Step:
    """Evaluate one alert.

    Args:
        alert: The alert before, or None.
        finding: The current finding, or None.
        now: Seconds of the engine's clock.
        cooldown: Seconds between two reminders.

    Returns:
        The alert afterwards and the transition, each None if there is none.
    """
    bad = finding is not None and finding.severity is not None
    if alert is None or alert.state == "pending":
        # A pending alert that is no longer found is dropped without a transition.
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
    transition: Transition | None = None
    finding = finding.after(alert.finding)
    change = finding.rank - alert.finding.rank
    if change:
        transition = "escalated" if change > 0 else "deescalated"
    elif now - alert.notified_at >= cooldown:
        transition = "reminded"
    elif finding == alert.finding:
        return alert, None
    notified_at = now if transition else alert.notified_at
    return replace(alert, finding=finding, notified_at=notified_at), transition


def _recover(alert: Alert, now: float) -> Step:
    recovering = alert
    if alert.state == "firing":
        recovering = replace(alert, state="recovering", since=now)
    if now - recovering.since >= alert.finding.keep_firing:
        return None, "resolved"
    return recovering, None


NAMES = ("alertname", "severity", "subject_kind", "subject_id", "metric", "provider")


def labels_of(finding: Finding, severity: Severity | None) -> dict[str, str]:
    """Return all labels of an alert with this severity; a label without a value is empty."""
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
    """Return the provider that an alert is about, or an empty string."""
    subject = finding.subject
    if subject.kind == "provider":
        return subject.id
    provider = finding.metadata.get("provider")
    return provider if isinstance(provider, str) else ""
