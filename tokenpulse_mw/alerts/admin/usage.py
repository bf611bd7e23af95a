"""Operations on the usage of models by tenant, model and provider."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import UNSET
from starlette.routing import BaseRoute

from ...exchange import truncate_with_hash
from ...usage import Cost
from ...web.auth import Authorize, Guard, TenantOf
from ...web.openapi import openapi_operation
from ...web.parameters import Parameter, Schema, choice, text
from ...web.problems import ProblemError, invalid
from ..engine import AlertEngine
from ..store.usage import USAGE_DIMENSIONS, UsageQuery, UsageRecord
from ..traffic import OVERFLOW
from ..traffic.classification import valid_text
from . import schemas
from .endpoint import Endpoint
from .operation import AdminRequest, AdminResponse, Operation

_DESCRIPTION = (
    "Usage of models by tenant, model and provider. Times are RFC 3339 in UTC, costs decimal "
    "strings in US dollars. Errors are problem details (RFC 9457)."
)
_MAX_ROWS = 10_000
_DEFAULT_HOURS = 24
_STEPS = {"hour": 1, "day": 24}
# Beginnings of a formula; some spreadsheets accept full-width characters.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_COLUMNS = (
    "time",
    "tenant",
    "tenant_name",
    "model",
    "provider",
    "requests",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd",
    "unpriced_requests",
)

# Columns that depend on the query, and the dimension that they need.
_OPTIONAL_COLUMNS = {
    "time": "",
    **{name: name for name in USAGE_DIMENSIONS},
    "tenant_name": "tenant",
}


def usage_routes(
    engine: AlertEngine, *, authorize: Authorize, path: str = "/admin/usage"
) -> list[BaseRoute]:
    """Return the route that reports the usage of all tenants, as JSON or CSV.

    `GET {path}/openapi.json` returns its OpenAPI description.

    Args:
        engine: The alert engine, in whose store the usage is.
        authorize: See `alert_routes`.
        path: Path of the route.

    Raises:
        ValueError: `authorize` is not callable.
    """
    guard = Guard(authorize, of="usage_routes")
    openapi = openapi_operation([OPERATION], path, title="Usage", text=_DESCRIPTION)
    return [
        Endpoint([operation], engine=engine, guard=guard).route(path + operation.path, name=name)
        for operation, name in ((OPERATION, "get_usage"), (openapi, "get_usage_openapi"))
    ]


def tenant_usage_routes(
    engine: AlertEngine, *, tenant_of: TenantOf, path: str = "/usage"
) -> list[BaseRoute]:
    """Return the route that reports the usage of the tenant that sends the request.

    Args:
        engine: The alert engine, in whose store the usage is.
        tenant_of: Function of the request, async or not, that returns the id of the tenant, as
            given to `annotate`. None is rejected with 401, and an exception with 503, unless it is
            an `HTTPException`.
        path: Path of the route.

    Raises:
        ValueError: `tenant_of` is not callable.
    """
    guard = Guard(
        tenant_of, of="tenant_usage_routes", name="tenant_of", returns="the id of a tenant or None"
    )
    endpoint = Endpoint([_TENANT_OPERATION], engine=engine, guard=guard, is_admin=False)
    return [endpoint.route(path, name="get_own_usage")]


async def get_usage(request: AdminRequest) -> AdminResponse:
    """Return the usage by time, tenant, model and provider."""
    return await _report(request, tenant=request.query["tenant"])


async def get_own_usage(request: AdminRequest) -> AdminResponse:
    """Return the usage of the tenant that sent the request."""
    if request.caller.name in ("", OVERFLOW):  # the usage of several tenants is counted as overflow
        raise ProblemError(403, "Forbidden: the request has no tenant.")
    return await _report(request, tenant=valid_text(truncate_with_hash(request.caller.name)))


async def _report(request: AdminRequest, *, tenant: str | None) -> AdminResponse:
    query = request.query
    end = query["to"] or datetime.fromtimestamp(request.engine.wall(), UTC) + timedelta(hours=1)
    start = query["from"] or end - timedelta(hours=_DEFAULT_HOURS)
    first, last = (int(time.timestamp() // 3600) for time in (start, end))
    if last <= first:
        raise invalid((("query", "from"), "must be at least an hour before `to`"))
    step = _STEPS.get(query["step"] or "")
    selection = UsageQuery(first, last, query["by"], step, tenant, _MAX_ROWS + 1)
    records = await request.engine.store.usage(selection)
    if len(records) > _MAX_ROWS:
        raise invalid(
            (("query", "by"), f"results in more than {_MAX_ROWS} rows: select a shorter time")
        )
    rows = [_row(record, selection, request.engine) for record in records]
    if query["format"] == "csv":
        return AdminResponse(_as_csv(rows, selection), media_type="text/csv; charset=utf-8")
    return AdminResponse(schemas.UsageReport(_time(first), _time(last), rows))


def _row(record: UsageRecord, query: UsageQuery, engine: AlertEngine) -> schemas.UsageRow:
    has_tenant = "tenant" in query.by
    return schemas.UsageRow(
        time=UNSET if query.step is None else _time(record.hour),
        tenant=record.tenant if has_tenant else UNSET,
        tenant_name=engine.tenant_name(record.tenant) if has_tenant else UNSET,
        model=record.model if "model" in query.by else UNSET,
        provider=record.provider if "provider" in query.by else UNSET,
        requests=record.requests,
        input_tokens=record.input,
        output_tokens=record.output,
        cache_read_tokens=record.cache_read,
        cache_write_tokens=record.cache_write,
        reasoning_tokens=record.reasoning,
        cost_usd=_dollars(record.cost_nanos),
        unpriced_requests=record.unpriced,
    )


def _as_csv(rows: Sequence[schemas.UsageRow], query: UsageQuery) -> bytes:
    """Return CSV (RFC 4180) with a header; a spreadsheet must not run a name as a formula."""
    file = io.StringIO()
    lines = csv.writer(file)
    columns = [
        name
        for name in _COLUMNS
        if name not in _OPTIONAL_COLUMNS
        or _OPTIONAL_COLUMNS[name] in query.by
        or (name == "time" and query.step is not None)
    ]
    lines.writerow(columns)
    for row in rows:
        values = [getattr(row, name) for name in columns]
        lines.writerow(
            [
                value.isoformat() if isinstance(value, datetime) else _not_a_formula(value)
                for value in values
            ]
        )
    return file.getvalue().encode(errors="replace")


def _not_a_formula(value: object) -> object:
    is_formula = isinstance(value, str) and value.startswith(_FORMULAS)
    return f"'{value}" if is_formula else value


def _dollars(nanos: int) -> str:
    return f"{Cost(nanos).usd:f}"


def _time(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC)


def _dimensions(name: str, description: str) -> Parameter:
    """Return a parameter that is a list of dimensions, separated by commas."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if not set(names) <= set(USAGE_DIMENSIONS) or len(set(names)) < len(names):
            raise ValueError(f"must be one or more of {','.join(USAGE_DIMENSIONS)}")
        return names

    schema: Schema = {"type": "string", "pattern": f"^({'|'.join(USAGE_DIMENSIONS)}|,)+$"}
    return Parameter(name, description, schema, read, ())


def _moment(name: str, description: str) -> Parameter:
    """Return a parameter that is a time or a date, in UTC unless it has an offset."""

    def read(text: str) -> datetime:
        try:
            time = datetime.fromisoformat(text)
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            if not 0 <= time.timestamp() <= _MAX_SECONDS:
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError("must be a time such as 2026-01-21T14:00:00Z, or a date") from None
        return time

    return Parameter(name, description, {"type": "string"}, read)


_MAX_SECONDS = 4_102_444_800  # the year 2100
_QUERY = (
    _dimensions("by", "Dimensions of the rows, separated by commas: tenant, model, provider"),
    _moment("from", "Beginning, rounded down to the hour; 24 hours before `to` by default"),
    _moment("to", "End, rounded down to the hour; includes the current hour by default"),
    choice(
        "step",
        "One row for each hour or each day (UTC); one for the whole time by default",
        tuple(_STEPS),
    ),
    choice("format", "Format of the response; json by default", ("json", "csv")),
)

OPERATION = Operation(
    method="GET",
    path="",
    handle=get_usage,
    summary="Return requests, tokens and cost by time, tenant, model and provider",
    response_type=schemas.UsageReport,
    text_types=("text/csv",),
    query=(*_QUERY, text("tenant", "Select the usage of one tenant")),
)
_TENANT_OPERATION = Operation(
    method="GET",
    path="",
    handle=get_own_usage,
    summary="Return the tenant's requests, tokens and cost by time, model and provider",
    response_type=schemas.UsageReport,
    text_types=("text/csv",),
    query=_QUERY,
)
