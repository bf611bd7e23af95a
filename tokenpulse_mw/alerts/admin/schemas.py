"""What the admin API gives; its description is made from this."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from ..store.records import Severity, State
from .ranges import ALL
from .takes import Matcher

_Values = Annotated[dict[str, Any], Meta(extra_json_schema=ALL)]
_Time = Annotated[datetime, Meta(tz=True)]


class Subject(Struct):
    """Whom an alert is about."""

    kind: str
    id: str
    name: str


class Acknowledgement(Struct):
    """Who has seen an alert."""

    by: str
    at: _Time
    note: str


class Alert(Struct, kw_only=True):
    """One episode of an alert; `silenced_by` is the silence that covers it now."""

    id: str
    fingerprint: str
    rule: str
    type: str
    metric: str
    severity: Severity
    state: State
    title: str
    message: str
    subject: Subject
    value: float | None
    metadata: dict[str, Any]
    started_at: _Time
    fired_at: _Time | None
    resolved_at: _Time | None
    resolve_reason: str | None
    since: _Time
    ack: Acknowledgement | None
    silenced_by: str | None


class Transition(Struct):
    """What happened to an alert."""

    transition: str
    severity: Severity
    value: float
    at: _Time


class AlertDetails(Alert, kw_only=True):
    """One episode of an alert, and what happened to it, the oldest first."""

    transitions: list[Transition]


class AlertPage(Struct):
    """Some alerts, the newest first, and the cursor of those that follow, if any do."""

    alerts: list[Alert]
    next: str | None


class CurrentThresholds(Struct):
    """The thresholds that hold; the version is null until somebody sets some."""

    version: int | None
    updated_at: _Time | None
    updated_by: str | None
    thresholds: _Values


class ThresholdsVersion(Struct):
    """Thresholds as somebody set them."""

    version: int
    updated_at: _Time
    updated_by: str
    thresholds: dict[str, Any]


class ThresholdsHistory(Struct):
    """The thresholds that were set, the newest first."""

    versions: list[ThresholdsVersion]


class Finding(Struct, kw_only=True):
    """What a rule finds; without severity it would not fire, but not end an alert either."""

    fingerprint: str
    type: str
    metric: str
    severity: Severity | None
    title: str
    message: str
    subject: Subject
    value: float | None
    metadata: dict[str, Any]
    hold_for: float


class Evaluation(Struct):
    """What a round would find."""

    findings: list[Finding]


class RuleOfEngine(Struct):
    """A rule, and what it says of itself."""

    name: str
    description: str


class Rules(Struct):
    """The rules that are asked in every round."""

    rules: list[RuleOfEngine]


class SinkOfEngine(Struct):
    """A sink, and how many notifications wait for it."""

    name: str
    waiting: int


class Sinks(Struct):
    """Where alerts are told."""

    sinks: list[SinkOfEngine]


class DeadLetter(Struct, kw_only=True):
    """A notification that was given up: since when, and why."""

    id: str
    sink: str
    alert_id: str
    fingerprint: str
    attempts: int
    created_at: _Time
    at: _Time
    error: str
    event: dict[str, Any]


class DeadLetters(Struct):
    """Notifications that were given up, the newest first."""

    dead_letters: list[DeadLetter]


class TestResult(Struct):
    """The sink has taken the test alert."""

    sink: str
    ok: bool


class Silence(Struct):
    """Alerts that all matchers pick are told to nobody, from one time to another."""

    id: str
    matchers: list[Matcher]
    starts_at: _Time
    ends_at: _Time
    created_by: str
    comment: str


class Silences(Struct):
    """Silences that have not ended, by their start."""

    silences: list[Silence]


class WrongValue(Struct):
    """Where a wrong value stands, and what is wrong with it."""

    loc: list[str | int]
    msg: str


class Problem(Struct, kw_only=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[WrongValue] | UnsetType = UNSET
    version: int | UnsetType | None = UNSET
