"""Bodies of requests and responses; the OpenAPI schemas are generated from them."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from ...web.parameters import Schema
from ..lifecycle import NAMES
from ..store.records import Difference, Severity, State
from ..thresholds import Flag, Range, Thresholds


def schema_of(allowed: Range | Flag) -> Schema:
    """Return the JSON Schema of a threshold."""
    if isinstance(allowed, Flag):
        return {"type": "boolean"}
    kind = "integer" if allowed.whole else "number"
    minimum = {"exclusiveMinimum": 0} if allowed.least is None else {"minimum": allowed.least}
    kinds = [kind, "null"] if allowed.optional else kind
    return {"type": kinds, **minimum, "maximum": allowed.most}


SOME_THRESHOLDS: Schema = {
    "type": "object",
    "properties": {
        threshold.name: {**schema_of(threshold.metadata["allowed"]), "default": threshold.default}
        for threshold in fields(Thresholds)
    },
    "additionalProperties": False,
}
ALL_THRESHOLDS: Schema = {**SOME_THRESHOLDS, "required": list(Thresholds.fields())}

FIELDS: Schema = {**SOME_THRESHOLDS, "minProperties": 1}  # the body itself

_Values = Annotated[dict[str, Any], Meta(extra_json_schema=ALL_THRESHOLDS)]
_All = Annotated[Raw, Meta(extra_json_schema=ALL_THRESHOLDS)]
_Some = Annotated[Raw, Meta(extra_json_schema=SOME_THRESHOLDS)]
_Time = Annotated[datetime, Meta(tz=True)]
_Text = Annotated[str, Meta(max_length=1000)]
_Author = Annotated[str, Meta(max_length=100)]
_Label = Annotated[str, Meta(max_length=100, extra_json_schema={"enum": list(NAMES)})]
_Pattern = Annotated[str, Meta(max_length=200)]
_Seconds = Annotated[float, Meta(gt=0, le=10 * 366 * 86_400)]


class Subject(Struct):
    """Subject of an alert, such as a key, a tenant or a provider."""

    kind: str
    id: str
    name: str


class Acknowledgement(Struct):
    """Author, time and note of an acknowledgement."""

    by: str
    at: _Time
    note: str


class Alert(Struct, kw_only=True):
    """One episode of an alert; `silenced_by` is the id of an active silence that matches it."""

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
    """Transition of an alert."""

    transition: str
    severity: Severity
    value: float
    at: _Time


class AlertDetails(Alert, kw_only=True):
    """One episode of an alert with its transitions, oldest first."""

    transitions: list[Transition]


class AlertPage(Struct):
    """Page of alerts, newest first; `next` is the cursor of the next page, null on the last."""

    alerts: list[Alert]
    next: str | None


class CurrentThresholds(Struct):
    """Current thresholds; `version` is null until thresholds are set at run time."""

    version: int | None
    updated_at: _Time | None
    updated_by: str | None
    thresholds: _Values


class ThresholdsVersion(Struct):
    """Version of the thresholds."""

    version: int
    updated_at: _Time
    updated_by: str
    thresholds: dict[str, Any]


class ThresholdsHistory(Struct):
    """Versions of the thresholds, newest first."""

    versions: list[ThresholdsVersion]


class Finding(Struct, kw_only=True):
    """Finding of a rule; with severity null it fires no alert, but keeps a firing one open."""

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


class EvaluationError(Struct):
    """Error of a component, such as `rule quota_exceeded`, whose findings are missing."""

    component: str
    error: str


class Evaluation(Struct):
    """Findings of an evaluation, and the errors of rules that failed."""

    findings: list[Finding]
    errors: list[EvaluationError]


class Rule(Struct):
    """Rule with its description."""

    name: str
    description: str


class Rules(Struct):
    """Rules in the order of evaluation."""

    rules: list[Rule]


class Sink(Struct):
    """Sink with the number of its queued notifications."""

    name: str
    waiting: int


class Sinks(Struct):
    """Sinks of the engine."""

    sinks: list[Sink]


class Leader(Struct):
    """Process that evaluates the rules and delivers notifications."""

    name: str
    host: str
    pid: int


class Member(Struct, kw_only=True):
    """Process of the fleet; `differs` lists what is not the same as in the leader."""

    name: str
    host: str
    pid: int
    version: str
    protocol: int
    started_at: _Time
    heartbeat_age_seconds: float
    may_lead: bool
    leads: bool
    differs: list[Difference]


class Fleet(Struct, kw_only=True):
    """Processes that share the alert store, in the last hour; `leader` is null if none leads."""

    leader: Leader | None
    epoch: int
    evaluated_at: _Time | None
    complete_since: _Time
    revision: int
    members: list[Member]


class DeadLetter(Struct, kw_only=True):
    """Notification that is no longer retried, with the time and the last error."""

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
    """Dead letters, newest first."""

    dead_letters: list[DeadLetter]


class TestResult(Struct):
    """Result of a test alert that the sink has accepted."""

    sink: str
    ok: bool


class Matcher(Struct, forbid_unknown_fields=True):
    """Matcher of alerts by a label; a regular expression must match the whole value."""

    name: _Label
    value: _Pattern
    is_regex: bool = False
    is_equal: bool = True


class Silence(Struct):
    """Silence of alerts that match all matchers, from `starts_at` to `ends_at`."""

    id: str
    matchers: list[Matcher]
    starts_at: _Time
    ends_at: _Time
    created_by: str
    comment: str


class Silences(Struct):
    """Pending and active silences by start time."""

    silences: list[Silence]


class _RequestBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Body of a request."""


class AcknowledgementBody(_RequestBody):
    """Note and author of an acknowledgement."""

    note: _Text = ""
    by: _Author = ""


class AllThresholdsBody(_RequestBody):
    """All thresholds, and the author of the change."""

    thresholds: _All
    by: _Author = ""


class SomeThresholdsBody(_RequestBody):
    """Thresholds to change, and the author of the change; the others keep their values."""

    thresholds: _Some
    by: _Author = ""


class EvaluationBody(_RequestBody):
    """Thresholds to evaluate with; the others keep their current values."""

    thresholds: _Some = field(default_factory=lambda: Raw(b"{}"))


class TestBody(_RequestBody):
    """Name of the sink that receives the test alert."""

    sink: Annotated[str, Meta(max_length=1000)]


class SilenceBody(_RequestBody):
    """Silence of alerts that match all matchers, until `ends_at` or for `duration` seconds."""

    matchers: Annotated[list[Matcher], Meta(min_length=1, max_length=20)]
    starts_at: _Time | None = None
    ends_at: _Time | None = None
    duration: _Seconds | None = None
    comment: _Text = ""
    by: _Author = ""


class UsageRow(Struct):
    """Usage of models; a dimension is missing if the row has all of its values.

    Tokens of a cache are part of the input tokens, and reasoning of the output tokens.
    `unpriced_requests` are those whose cost is unknown or only a minimum. `tenant_name` is the last
    known name of the tenant, or null.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?$")]
    unpriced_requests: int
    time: _Time | UnsetType = UNSET
    tenant: str | UnsetType = UNSET
    tenant_name: str | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET


class UsageReport(Struct):
    """Usage from a time up to another one, by time, tenant, model and provider."""

    start: _Time = field(name="from")
    end: _Time = field(name="to")
    rows: list[UsageRow]
