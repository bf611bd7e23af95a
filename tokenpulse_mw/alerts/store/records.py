"""What is kept, as plain values; every time is in seconds since the epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Severity = Literal["info", "warning", "critical"]
State = Literal["pending", "firing", "recovering", "resolved"]
Json = dict[str, Any]

STATES: tuple[State, ...] = get_args(State)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Ack:
    """Somebody has seen an alert: who, when, and what they say of it."""

    by: str
    at: float
    note: str = ""

    def __post_init__(self) -> None:
        check_finite("at", self.at)


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """One episode of an alert, from its first finding until it is resolved.

    Attributes:
        id: Identifies the episode.
        fingerprint: Stays the same from one episode to the next.
        rule: The name of the rule that found it.
        type: Such as "error_spike".
        severity: How bad it is, or last was.
        state: Where in its life it stands.
        finding: What the rule found, as JSON; its `subject` says whom the alert is about.
        since: When it entered its state.
        told: When it was last told to anyone.
        started_at: When it was first found.
        fired_at: When it fired, if it has.
        resolved_at: When it was resolved; this and the state say the same.
        resolve_reason: Why it was resolved.
        ack: Who has seen it, if anyone.
        told_as: The severity that was last told of it; None where nothing was, as while it is
            pending or silenced.

    Raises:
        ValueError: A state, a severity or a time is not one.
    """

    id: str
    fingerprint: str
    rule: str
    type: str
    severity: Severity
    state: State
    finding: Json
    since: float
    told: float
    started_at: float
    fired_at: float | None = None
    resolved_at: float | None = None
    resolve_reason: str | None = None
    ack: Ack | None = None
    told_as: Severity | None = None

    def __post_init__(self) -> None:
        check_choice("state", self.state, STATES)
        check_choice("severity", self.severity, SEVERITIES)
        check_choice("told_as", self.told_as, (*SEVERITIES, None))
        for name in ("since", "told", "started_at", "fired_at", "resolved_at"):
            check_finite(name, getattr(self, name))
        if (self.state == "resolved") != (self.resolved_at is not None):
            raise ValueError(
                f"an alert has a resolved_at when, and only when, its state is 'resolved', "
                f"got {self.state!r} with resolved_at={self.resolved_at!r}"
            )

    @property
    def subject(self) -> str:
        """Whom it is about, as `kind:id`, from the finding; empty where that does not say."""
        subject = self.finding.get("subject")
        if isinstance(subject, Mapping):
            subject = (subject.get("kind", ""), subject.get("id", ""))
        if not isinstance(subject, (tuple, list)) or len(subject) < 2:
            return ""
        return f"{subject[0]}:{subject[1]}"


@dataclass(frozen=True, slots=True)
class TransitionRecord:
    """What happened to an alert, and when; `value` is the number that its rule compared."""

    alert_id: str
    fingerprint: str
    transition: str
    severity: Severity
    value: float
    at: float

    def __post_init__(self) -> None:
        check_choice("severity", self.severity, SEVERITIES)
        check_finite("value", self.value)
        check_finite("at", self.at)


@dataclass(frozen=True, slots=True)
class Notification:
    """One event that one sink has not taken yet.

    Attributes:
        id: The same in every attempt, also after a restart.
        sink: The name of the sink that is to take it.
        alert_id: Whose event it is.
        fingerprint: Of that alert.
        event: What the sink is told, as JSON.
        created_at: When it was made.
        attempts: How often the sink was asked.
        due_at: When the sink is to be asked next.
        last_error: Why the sink did not take it.
    """

    id: str
    sink: str
    alert_id: str
    fingerprint: str
    event: Json
    created_at: float
    attempts: int = 0
    due_at: float = 0
    last_error: str | None = None

    def __post_init__(self) -> None:
        check_finite("created_at", self.created_at)
        check_finite("due_at", self.due_at)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A notification that is not attempted any more: since when, and why."""

    notification: Notification
    at: float
    error: str

    def __post_init__(self) -> None:
        check_finite("at", self.at)


class Matcher(NamedTuple):
    """Picks alerts by one of their labels, in the form that Alertmanager gives it."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that all of `matchers` pick are told to nobody, from `starts_at` to `ends_at`."""

    id: str
    matchers: tuple[Matcher, ...]
    starts_at: float
    ends_at: float
    created_by: str
    comment: str

    def __post_init__(self) -> None:
        check_finite("starts_at", self.starts_at)
        check_finite("ends_at", self.ends_at)
        if not self.starts_at < self.ends_at:
            raise ValueError(
                f"a silence must end after it starts, got starts_at={self.starts_at!r} and "
                f"ends_at={self.ends_at!r}"
            )


@dataclass(frozen=True, slots=True)
class ThresholdsVersion:
    """Thresholds as somebody set them: the first version is 1, and each change is one more."""

    version: int
    values: Json
    at: float
    by: str

    def __post_init__(self) -> None:
        check_finite("at", self.at)


def check_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """Refuse a value that is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def json_copy(name: str, value: Json) -> Json:
    """What a database would make of `value`; a change of one is none of the other.

    Raises:
        ValueError: It is not JSON.
    """
    copied: Json = json.loads(json_text(name, value))
    return copied


def json_text(name: str, value: object) -> str:
    """`value` as JSON, in ASCII: any text survives any database in it.

    Raises:
        ValueError: It is not JSON; infinity and NaN are not either.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be plain JSON, without NaN and infinity: {error}") from None


def check_finite(name: str, value: float | None) -> None:
    """Refuse NaN and infinity, which no time is, and what no database has as a number."""
    try:
        if value is None or math.isfinite(value):
            return
    except OverflowError:
        raise ValueError(f"{name} must be a finite number, got one that is too large") from None
    raise ValueError(f"{name} must be a finite number, got {value!r}")
