"""Bodies of the responses; the OpenAPI schemas are generated from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

Time = Annotated[datetime, Meta(tz=True)]
Right = Literal["read", "ack", "limits", "thresholds"]
Number = float | None


class Instance(Struct):
    """The process that answers."""

    id: str
    pid: int
    host: str
    started_at: Time
    version: str


class Scope(Struct):
    """The processes whose requests are counted: one, those of a machine, or the whole fleet.

    `missing` is the number of live processes whose numbers are not included.
    """

    kind: Literal["process", "machine", "fleet"]
    processes: int
    missing: int


class Me(Struct):
    """The caller, and what it may do."""

    name: str
    can: list[Right]


class Firing(Struct):
    """Firing alerts by severity."""

    critical: int = 0
    warning: int = 0
    info: int = 0


class Tokens(Struct):
    """Tokens a minute."""

    input: Number = None
    output: Number = None


class Rates(Struct, kw_only=True):
    """Rates over the last `window_seconds`; null if they are not known."""

    window_seconds: float
    requests_per_second: Number
    error_share: Number
    limited_per_minute: Number
    tokens_per_minute: Tokens
    cost_usd_today: Number


class InFlight(Struct):
    """Requests in progress; `stalled` are those without a byte for a minute."""

    count: int | None = None
    oldest_seconds: Number = None
    stalled: int | None = None


class Faults(Struct):
    """Failures a minute, by whose fault they are."""

    client: Number = None
    policy: Number = None
    gateway: Number = None
    provider: Number = None
    network: Number = None


class Engine(Struct, kw_only=True):
    """The alert engine; `alerts` is false if alerts are disabled."""

    last_evaluation_at: Time | None = None
    interval_seconds: Number = None
    store: Literal["ok", "failing", "none"] = "none"
    leader: bool | None = None
    alerts: bool = False


class Credential(Struct, kw_only=True):
    """A credential of a provider; `rejected`, which is null if it is not known, counts 401 and 403.

    `consecutive_failures` is the larger number of failures in a row: of the provider with this
    credential, or of the credential itself.
    """

    id: str
    group: str | None = None
    consecutive_failures: int | None = None
    rejected: int | None = None
    last_success_at: Time | None = None


class Upstream(Struct, kw_only=True):
    """Remaining rate limit that the provider reports."""

    requests_remaining: Number = None
    tokens_remaining: Number = None
    resets_at: Time | None = None


class Model(Struct):
    """A model of a provider."""

    name: str
    requests_per_minute: Number
    tokens_per_minute: Tokens


class Provider(Struct, kw_only=True):
    """A provider over the last minute."""

    name: str
    requests_per_minute: Number
    error_share: Number
    truncated_share: Number
    p50_seconds: Number
    p95_seconds: Number
    time_to_first_token_p95_seconds: Number
    tokens_per_minute: Tokens
    limited_by_us_per_minute: Number
    limited_by_vendor_per_minute: Number
    credential: Literal["active", "inactive", "unknown"]
    credentials: list[Credential]
    consecutive_failures: int | None
    last_success_at: Time | None
    usage_missing_share: Number
    upstream: Upstream | None
    models: list[Model]


class Sink(Struct, kw_only=True):
    """A sink of alerts; the numbers of notifications are those of all processes."""

    name: str
    waiting: int | None = None
    dead: int | None = None
    last_ok_at: Time | None = None


class Check(Struct):
    """A health check."""

    name: str
    status: Literal["pass", "warn", "fail"]
    output: str | None = None


class Member(Struct):
    """A process that shares the alert store."""

    name: str
    host: str
    pid: int
    leader: bool
    seen_at: Time


class State(Struct, kw_only=True):
    """The gateway now."""

    instance: Instance
    at: Time
    service: str
    scope: Scope
    me: Me
    status: Literal["ok", "warn", "error"]
    firing: Firing
    rates: Rates
    in_flight: InFlight
    faults: Faults
    engine: Engine
    providers: list[Provider]
    sinks: list[Sink]
    checks: list[Check]
    log_level: str
    members: list[Member]
    internal_errors: int | None
    series_overflow: int | None


class Mark(Struct):
    """An event on the time axis."""

    at: Time
    kind: Literal["started", "fired", "resolved"]
    text: str


Numbers = list[Number]


class Columns(Struct, kw_only=True):
    """A list for each name, and in it a number for each step, the oldest first; null is a gap."""

    requests: list[Numbers]
    errors: list[Numbers]
    limited: list[Numbers]
    input_tokens: list[Numbers]
    output_tokens: list[Numbers]
    cost_usd: list[Numbers]
    duration_p95: list[Numbers]
    ttfb_p95: list[Numbers]
    ttft_p50: list[Numbers]
    ttft_p95: list[Numbers]
    in_flight: Numbers


class SeriesOf(Struct, kw_only=True, rename={"from_": "from"}):
    """Numbers of the last hour: counts of each step, and quantiles in seconds."""

    step_seconds: float
    from_: Time
    to: Time
    scope: Scope
    names: list[str]
    series: Columns
    marks: list[Mark]


class Route(Struct, kw_only=True):
    """A route over the last minute."""

    route: str
    requests_per_minute: Number
    error_share: Number
    p50_seconds: Number
    p95_seconds: Number
    limited_per_minute: Number


class Routes(Struct):
    """Routes, and the number of those that are not listed."""

    routes: list[Route]
    others: int


class Request(Struct, kw_only=True):
    """A request in progress; `quiet_seconds` is the time without a byte."""

    id: str
    age_seconds: float
    idle_seconds: float
    route: str
    provider: str
    model: str | None
    tenant: str | None
    tenant_name: str | None
    credential: str | None
    credential_group: str | None
    first_byte: bool
    output_tokens: int | None
    stalled: bool


class Requests(Struct):
    """The oldest requests in progress; `count` is the number of all."""

    count: int | None
    requests: list[Request]


class Tenant(Struct, kw_only=True):
    """Usage of a tenant today."""

    id: str
    name: str | None
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: Number


class Tenants(Struct):
    """Usage of tenants today (UTC), most requests first; `next` is the cursor of the next page."""

    date: str
    tenants: list[Tenant]
    next: str | None
