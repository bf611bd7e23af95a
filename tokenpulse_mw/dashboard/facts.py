"""Values of one process that are not counted, and the functions that return them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default

from msgspec import Struct, field

from . import schemas
from .totals import Series

MAX_REQUESTS = 100  # in progress, that a process lists
MAX_MARKS = 200


class Mark(Struct, array_like=True):
    """An event on the time axis.

    Attributes:
        at: Seconds since the epoch.
        kind: "started", "fired" or "resolved".
        text: Short description.
    """

    at: float
    kind: str
    text: str


class Streak(Struct, array_like=True):
    """Failures in a row of a credential or a provider, over all processes.

    Attributes:
        kind: "apikey" for the responses to a credential, "auth" for its rejections, or "provider".
        id: Id of the credential, or name of the provider.
        provider: The provider; empty if it is not known.
        group: Readable group of the credential; empty if it has none.
        failures: Failures since the last success.
        last_success: Seconds since the epoch; 0 if there was none.
    """

    kind: str
    id: str
    provider: str
    group: str
    failures: int
    last_success: float


class Facts(Struct, kw_only=True):
    """Values of one process.

    Attributes:
        member: Name of the process in the fleet of the alert store; empty if it has none.
        in_flight: Requests in progress; None if they are not known.
        requests: The oldest requests in progress.
        upstream: Remaining rate limits by provider.
        streaks: Failures in a row; None unless this process leads.
        last_ok: Last successful delivery by sink, in seconds since the epoch.
        marks: Events of the last hour.
        internal_errors: Errors of this library since the start; None if they are not known.
        overflow: Observations in full series since the start; None if they are not known.
        tenant_names: Names of recent tenants by id.
    """

    member: str = ""
    in_flight: schemas.InFlight = field(default_factory=schemas.InFlight)
    requests: list[schemas.Request] = []
    upstream: dict[str, schemas.Upstream] = {}
    streaks: list[Streak] | None = None
    last_ok: dict[str, float] = {}
    marks: list[Mark] = []
    internal_errors: float | None = None
    overflow: float | None = None
    tenant_names: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """State of the alert engine, without waiting for the store.

    Attributes:
        engine: The engine.
        firing: Number of firing alerts by severity.
        members: Processes that share the store.
        live: Names of those that are alive.
        sinks: Names of the sinks.
    """

    engine: schemas.Engine = default(default_factory=schemas.Engine)
    firing: schemas.Firing = default(default_factory=schemas.Firing)
    members: Sequence[schemas.Member] = ()
    live: frozenset[str] = frozenset()
    sinks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """Values in the alert store.

    Attributes:
        cost_usd_today: Known cost since midnight UTC; None if none is known.
        waiting: Undelivered notifications by sink; None if they are not known.
        dead: Dead letters by sink; None if they are not known.
    """

    cost_usd_today: float | None = None
    waiting: Mapping[str, int] | None = None
    dead: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Functions that return the values of this process.

    Attributes:
        series: Returns the families and rows that are counted.
        scope: Returns the processes that `series` counts: this one, or those of a machine.
        service: Name of the service.
        version: Version of this library.
        providers: Returns the names of the declared or seen providers.
        active: Returns for each provider if its credentials are active.
        checks: Returns the results of the health checks.
        log_level: Returns the log level.
        engine: Returns the state of the alert engine.
        store: Reads the alert store.
        tenants: Returns the usage of all tenants today; None if it is not counted.
        facts: Returns the other values of this process, without its requests and the metrics.
        requests: Returns the oldest requests in progress, at most as many as the argument.
    """

    series: Callable[[], Awaitable[Sequence[Series]]]
    scope: Callable[[], schemas.Scope]
    service: str
    version: str
    providers: Callable[[], Iterable[str]]
    active: Callable[[], Mapping[str, bool]]
    checks: Callable[[], Awaitable[list[schemas.Check]]]
    log_level: Callable[[], str]
    engine: Callable[[], EngineFacts]
    store: Callable[[], Awaitable[StoreFacts]]
    tenants: Callable[[], Awaitable[list[schemas.Tenant]]] | None
    facts: Callable[[], Facts]
    requests: Callable[[int], list[schemas.Request]]
