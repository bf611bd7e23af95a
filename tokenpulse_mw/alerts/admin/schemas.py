"""What the admin API gives; its description is made from this."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from ..lifecycle import NAMES
from ..store.records import Severity, State
from ..thresholds import Flag, Range, Thresholds


def schema_of(allowed: Range | Flag) -> Schema:
    """What a threshold may be."""
    if isinstance(allowed, Flag):
        return {"type": "boolean"}
    kind = "integer" if allowed.whole else "number"
    least = {"exclusiveMinimum": 0} if allowed.least is None else {"minimum": allowed.least}
    kinds = [kind, "null"] if allowed.optional else kind
    return {"type": kinds, **least, "maximum": allowed.most}


SOME: Schema = {
    "type": "object",
    "properties": {each.name: schema_of(each.metadata["allowed"]) for each in fields(Thresholds)},
    "additionalProperties": False,
}


ALL: Schema = {**SOME, "required": list(Thresholds.fields())}


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


Schema = dict[str, Any]


_All = Annotated[Raw, Meta(extra_json_schema=ALL)]


_Some = Annotated[Raw, Meta(extra_json_schema=SOME)]


_Text = Annotated[str, Meta(max_length=1000)]


_Who = Annotated[str, Meta(max_length=100)]


_Label = Annotated[str, Meta(max_length=100, extra_json_schema={"enum": list(NAMES)})]


_Pattern = Annotated[str, Meta(max_length=200)]


_Seconds = Annotated[float, Meta(gt=0, le=10 * 366 * 86_400)]


class _Given(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a request holds."""


class Matcher(Struct, forbid_unknown_fields=True):
    """Picks alerts by a label; a pattern must match the whole value."""

    name: _Label
    value: _Pattern
    is_regex: bool = False
    is_equal: bool = True


class AcknowledgementBody(_Given):
    """Who has seen an alert, and what they say of it."""

    note: _Text = ""
    by: _Who = ""


class AllThresholdsBody(_Given):
    """Every threshold."""

    thresholds: _All
    by: _Who = ""


class SomeThresholdsBody(_Given):
    """Thresholds to be changed; the others stay as they are."""

    thresholds: _Some
    by: _Who = ""


class EvaluationBody(_Given):
    """Thresholds to be tried; the others are those that hold."""

    thresholds: _Some = field(default_factory=lambda: Raw(b"{}"))


class TestBody(_Given):
    """Which sink to tell a test alert."""

    sink: Annotated[str, Meta(max_length=1000)]


class SilenceBody(_Given):
    """Alerts that all matchers pick are told to nobody, until `ends_at` or for `duration`."""

    matchers: Annotated[list[Matcher], Meta(min_length=1, max_length=20)]
    starts_at: _Time | None = None
    ends_at: _Time | None = None
    duration: _Seconds | None = None
    comment: _Text = ""
    by: _Who = ""
