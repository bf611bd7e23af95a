"""Records of the alert store; all times are in seconds since the epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from ...validation import check_choice
from .usage import UsageRecord

Severity = Literal["info", "warning", "critical"]
State = Literal["pending", "firing", "recovering", "resolved"]
# A state, or "active": fired and not resolved.
StateFilter = Literal["pending", "firing", "recovering", "resolved", "active"]
Difference = Literal["rules", "sinks", "version", "protocol", "heartbeat", "thresholds"]
Json = dict[str, Any]

_Value = TypeVar("_Value")

STATES: tuple[State, ...] = get_args(State)
STATE_FILTERS: tuple[StateFilter, ...] = get_args(StateFilter)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledgement of an alert: by whom, when, and a note."""

    by: str
    at: float
    note: str = ""

    def __post_init__(self) -> None:
        check_finite("at", self.at)


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """One episode of an alert, from its first finding until it is resolved.

    Attributes:
        id: Identifier of the episode.
        fingerprint: Identifier of the alert, the same in all its episodes.
        rule: Name of the rule that found it.
        type: Type of the finding, such as "error_spike".
        severity: Current severity, or the last one if it is resolved.
        state: State of its life cycle.
        finding: The rule's finding as JSON; its `subject` is the subject of the alert.
        since: Time at which it entered its state.
        last_notified_at: Time of the last notification about it.
        started_at: Time at which it was first found.
        fired_at: Time at which it fired, if it has.
        resolved_at: Time at which it was resolved; set if, and only if, the state is "resolved".
        resolve_reason: Reason why it was resolved.
        ack: Acknowledgement, if there is one.
        notified_severity: Severity in the last notification; None before the first one, such as
            while the alert is pending or silenced.

    Raises:
        ValueError: A state, a severity or a time is invalid.
    """

    id: str
    fingerprint: str
    rule: str
    type: str
    severity: Severity
    state: State
    finding: Json
    since: float
    last_notified_at: float
    started_at: float
    fired_at: float | None = None
    resolved_at: float | None = None
    resolve_reason: str | None = None
    ack: Ack | None = None
    notified_severity: Severity | None = None

    def __post_init__(self) -> None:
        check_choice("state", self.state, STATES)
        check_choice("severity", self.severity, SEVERITIES)
        check_choice("notified_severity", self.notified_severity, (*SEVERITIES, None))
        for name in ("since", "last_notified_at", "started_at", "fired_at", "resolved_at"):
            check_finite(name, getattr(self, name))
        if (self.state == "resolved") != (self.resolved_at is not None):
            raise ValueError(
                f"resolved_at must be set if, and only if, state is 'resolved', got "
                f"resolved_at={self.resolved_at!r} with state={self.state!r}"
            )

    @property
    def subject(self) -> str:
        """The subject of the finding as `kind:id`; empty if the finding has none."""
        subject = self.finding.get("subject")
        if isinstance(subject, Mapping):
            subject = (subject.get("kind", ""), subject.get("id", ""))
        if not isinstance(subject, (tuple, list)) or len(subject) < 2:
            return ""
        return f"{subject[0]}:{subject[1]}"


@dataclass(frozen=True, slots=True)
class TransitionRecord:
    """One transition of an alert; `value` is the number that the rule compared."""

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
    """One event that is not yet delivered to one sink.

    Attributes:
        id: Identifier, the same in every attempt, also after a restart.
        sink: Name of the sink.
        alert_id: Identifier of the alert's episode.
        fingerprint: Identifier of the alert.
        event: The event as JSON.
        created_at: Time at which it was created.
        attempts: Number of failed attempts.
        due_at: Time of the next attempt.
        last_error: Error of the last attempt.
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
    """A notification that is no longer attempted, since `at`, because of `error`."""

    notification: Notification
    at: float
    error: str

    def __post_init__(self) -> None:
        check_finite("at", self.at)


class Matcher(NamedTuple):
    """Condition on one label of an alert, in the form of Alertmanager."""

    name: str
    value: str
    is_regex: bool = False
    is_equal: bool = True


@dataclass(frozen=True, slots=True)
class Silence:
    """Mutes alerts that match all `matchers`, from `starts_at` to `ends_at`."""

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
                f"ends_at must be later than starts_at, got starts_at={self.starts_at!r} and "
                f"ends_at={self.ends_at!r}"
            )


@dataclass(frozen=True, slots=True)
class ThresholdsVersion:
    """One version of the thresholds; versions are counted from 1."""

    version: int
    values: Json
    at: float
    by: str

    def __post_init__(self) -> None:
        check_finite("at", self.at)


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the fleet, as it describes itself in each heartbeat.

    Attributes:
        name: Unique name, also among the processes that a host had before.
        host: Name of the host.
        pid: Process id on its host.
        version: Version of the library.
        protocol: Newest version of the batches and windows that it reads; it also reads the one
            before.
        rules: Names of its rules.
        sinks: Names of its sinks.
        leads: False if it never leads.
        started_at: Start of its engine.
        profile: Seconds between its heartbeats, and the thresholds by which it counts failures and
            latencies, as "heartbeat=5 error_window=300 ..."; counts with others cannot be added.
    """

    name: str
    host: str
    pid: int
    version: str
    protocol: int
    rules: tuple[str, ...]
    sinks: tuple[str, ...]
    leads: bool
    started_at: float
    profile: str

    def differences(self, other: Process) -> list[Difference]:
        """Return what is not the same as in `other`."""
        heartbeat, _, thresholds = self.profile.partition(" ")
        other_heartbeat, _, other_thresholds = other.profile.partition(" ")
        compared: dict[Difference, object] = {
            "rules": set(self.rules) ^ set(other.rules),
            "sinks": set(self.sinks) ^ set(other.sinks),
            "version": self.version != other.version,
            "protocol": self.protocol != other.protocol,
            "heartbeat": heartbeat != other_heartbeat,
            "thresholds": thresholds != other_thresholds,
        }
        return [name for name, differs in compared.items() if differs]


@dataclass(frozen=True, slots=True)
class Member:
    """A process that has sent a heartbeat within the last hour.

    Attributes:
        process: The process.
        seen_at: Time of its last heartbeat.
        pushed: Number of its last batch.
        through: Slot up to which it has pushed all of its traffic.
    """

    process: Process
    seen_at: float
    pushed: int
    through: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Traffic of one process in one slot of time.

    Attributes:
        process: Name of the process.
        number: Number of the batch; batches of a process are numbered upwards from 1.
        slot: Number of the slot since the epoch.
        protocol: Version of `payload`.
        payload: The encoded traffic.
        usage: Usage to add to that of its hour; empty in a batch that was read from the store.
    """

    process: str
    number: int
    slot: int
    protocol: int
    payload: bytes
    usage: tuple[UsageRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One slot of a traffic window, or of other state of the evaluations.

    Attributes:
        kind: Name of the windows, such as "minute".
        slot: Number of the slot since the epoch; its length depends on the windows.
        protocol: Version of `payload`.
        payload: The encoded counts.
    """

    kind: str
    slot: int
    protocol: int
    payload: bytes


def json_copy(name: str, value: _Value) -> _Value:
    """Return a deep copy of `value` as a database would return it.

    Raises:
        ValueError: `value` is not JSON.
    """
    copied: _Value = json.loads(json_text(name, value))
    return copied


def json_text(name: str, value: object) -> str:
    """Return `value` as JSON in ASCII, which every database stores unchanged.

    Raises:
        ValueError: `value` is not JSON; NaN and infinity are not either.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be plain JSON, without NaN and infinity: {error}") from None


def check_finite(name: str, value: float | None) -> None:
    """Raise ValueError if `value` is NaN or infinite, which databases cannot store."""
    try:
        if value is None or math.isfinite(value):
            return
    except OverflowError:
        raise ValueError(f"{name} must be a finite number, got one that is too large") from None
    raise ValueError(f"{name} must be a finite number, got {value!r}")
