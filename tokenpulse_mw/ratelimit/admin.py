"""Endpoints that list the limits, and change them at run time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import isinf
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..exchange import drop_exchange
from ..lifespan import LoopLock
from ..web.auth import Authorize, Guard
from ..web.body import read_body
from ..web.etag import Tags, parse_tags, quoted
from ..web.problems import PROBLEM_JSON, ProblemError, invalid, problem_response
from ..web.route import OwnRoute
from .limiters import Limiter
from .policy import Policy

logger = logging.getLogger("tokenpulse_mw.ratelimit")

_LIST, _ONE = ("GET", "HEAD"), ("GET", "HEAD", "PUT", "DELETE")
_MAX_AUTHOR_CHARS = 100


class LimitBody(Struct, forbid_unknown_fields=True):
    """New limit of a policy.

    Attributes:
        limit: A rate such as "200/minute", "0" to block, or the rates of all plans.
        until: For "0": RFC 3339 time at which the limit before returns.
        by: Author, if authorization gives no name.
    """

    limit: str | dict[str, str | None]
    until: datetime | None = None
    by: str = ""


class LimitState(Struct):
    """A limit.

    Attributes:
        policy: Name of the policy.
        limit: Present rate, such as "200 per minute"; the rates of all plans; or null if a
            function returns them, or a key of the table is not text.
        configured: Limit of the configuration, in the same form.
        unit: "requests", "tokens", "USD" or "concurrent-requests".
        timezone: Time zone of calendar windows, else null.
        enforced: False in shadow mode.
        status: Status code of a rejection.
        blocked: True if every request is rejected at present.
        blocked_until: Time at which a block ends, or null if that is not known.
        version: Number of changes, which is the ETag.
        changed_at: Time of the last change, or null.
        changed_by: Author of that change, or null.
    """

    policy: str
    limit: str | dict[str, str | None] | None
    configured: str | dict[str, str | None] | None
    unit: str
    timezone: str | None
    enforced: bool
    status: int
    blocked: bool
    blocked_until: datetime | None
    version: int
    changed_at: datetime | None
    changed_by: str | None


class LimitList(Struct):
    """All limits."""

    limits: list[LimitState]


# Stores a change for other processes: name of the policy, the change, None after a DELETE, and
# the author.
KeepLimit = Callable[[str, LimitBody | None, str], Awaitable[object]]


def limit_routes(
    policies: Sequence[Policy],
    *,
    authorize: Authorize,
    keep: KeepLimit | None = None,
    prefix: str = "/admin/limits",
) -> list[BaseRoute]:
    """Return the routes that list limits and change them.

    `GET {prefix}` lists all limits; `GET`, `PUT` and `DELETE {prefix}/{policy}` return one, change
    it, and undo all changes. A change keeps what clients have used. Without `keep`, it applies to
    this process only and lasts until it ends. It is logged with its author. Authorized requests
    are excluded from metrics and alert statistics; unauthorized ones get 401.

    Args:
        policies: Limits; more may be appended later.
        authorize: Returns True or the name of the client if the request is authorized, as `bearer`
            does; may be async.
        keep: Async function of the policy's name, the change and its author, called before the
            change applies. It may store the change for other processes and for the next start. An
            error that it raises is the response.
        prefix: Path of the routes.

    Raises:
        ValueError: `authorize` is not callable, or `prefix` is not a path.
    """
    if not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix:
        raise ValueError(f"prefix must be a path such as /admin/limits, got {prefix!r}")
    limits = _Limits(policies, Guard(authorize, of="limit_routes"), keep, prefix)
    return [
        OwnRoute(path, respond, name=name, methods=methods, for_all=True)
        for path, respond, name, methods in (
            (prefix, limits.list_limits, "limits", _LIST),
            (f"{prefix}/openapi.json", limits.describe_limits, "limits_openapi", _LIST),
            (f"{prefix}/{{policy}}", limits.serve_limit, "limit", _ONE),
            (f"{prefix}/{{path:path}}", limits.reject_path, "limits_not_found", _LIST),
        )
    ]


class _Limits:
    """Endpoints of the limits."""

    def __init__(
        self, policies: Sequence[Policy], guard: Guard, keep: KeepLimit | None, prefix: str
    ) -> None:
        self._policies, self._guard, self._keep = policies, guard, keep
        self._description = _openapi(prefix)
        self._lock = LoopLock()

    async def list_limits(self, request: Request) -> Response:
        """Return all limits."""
        return await self._respond(request, self._list, _LIST)

    async def describe_limits(self, request: Request) -> Response:
        """Return the OpenAPI description."""
        return await self._respond(request, self._describe, _LIST)

    async def serve_limit(self, request: Request) -> Response:
        """Return or change one limit."""
        return await self._respond(request, self._one, _ONE)

    async def reject_path(self, request: Request) -> Response:
        """Return 404, so that no token reaches a route of the application."""
        return await self._respond(request, self._not_found, ())

    async def _respond(
        self,
        request: Request,
        handle: Callable[[Request, str], Awaitable[Response]],
        methods: Sequence[str],
    ) -> Response:
        try:
            name = await self._guard.authorize(request)
            drop_exchange(request.scope)
            if methods and request.method not in methods:
                allow = ", ".join(methods)
                raise ProblemError(
                    405, f"Method not allowed. Allowed methods: {allow}.", headers={"allow": allow}
                )
            return await handle(request, name)
        except ProblemError as problem:
            return problem_response(problem)

    async def _list(self, _request: Request, _name: str) -> Response:
        return _json(LimitList([self._state(policy) for policy in self._policies]))

    async def _describe(self, _request: Request, _name: str) -> Response:
        return _json(self._description)

    async def _not_found(self, _request: Request, _name: str) -> Response:
        raise ProblemError(404, "Not found: openapi.json lists all paths.")

    async def _one(self, request: Request, name: str) -> Response:
        wanted = request.path_params["policy"]
        policy = next((policy for policy in self._policies if policy.name == wanted), None)
        if policy is None:
            raise ProblemError(404, "Not found: no policy has this name.")
        if request.method in ("PUT", "DELETE"):
            tags = _if_match(request)
            body = None
            if request.method == "PUT":
                body = await read_body(request, LimitBody, optional=False)
            async with self._lock():  # the version must not change between the check and the change
                if not tags.match(str(policy.version)):
                    raise _conflict(policy)
                await self._change(policy, body, name or ("" if body is None else body.by))
        return _json(self._state(policy), {"etag": quoted(policy.version)})

    async def _change(self, policy: Policy, body: LimitBody | None, by: str) -> None:
        """Apply the change in a body; None undoes all changes."""
        by = " ".join(by.split())[:_MAX_AUTHOR_CHARS] or "unknown"
        try:
            if body is not None:
                _check_plans(policy, body)
                policy.check_rate(body.limit, until=body.until)
            if self._keep is not None:
                await self._keep(policy.name, body, by)
            before = policy.shown_limit
            if body is None:
                policy.restore_rate(by=by)
            else:
                policy.set_rate(body.limit, until=body.until, by=by)
        except ValueError as error:
            field = "until" if str(error).startswith("until ") else "limit"
            raise invalid(((field,), str(error))) from None
        logger.warning(
            "limit changed: policy=%s from=%s to=%s by=%s",
            policy.name,
            before,
            policy.shown_limit if policy.blocked_for() is None else "0",
            by,
        )

    def _state(self, policy: Policy) -> LimitState:
        limiter = policy.limiter
        left, now = policy.blocked_for(), datetime.now(UTC)
        changed_at, changed_by = policy.changed or (None, None)
        return LimitState(
            policy=policy.name,
            limit=policy.shown_limit,
            configured=policy.configured_limit,
            unit=policy.unit,
            timezone=limiter.timezone if isinstance(limiter, Limiter) else None,
            enforced=policy.enforce,
            status=policy.status,
            blocked=left is not None,
            blocked_until=None if left is None or isinf(left) else now + timedelta(seconds=left),
            version=policy.version,
            changed_at=changed_at,
            changed_by=changed_by,
        )


def _check_plans(policy: Policy, body: LimitBody) -> None:
    """Check that a change by plan replaces a table, since a function cannot be shown."""
    is_table = policy.plans is not None and policy.shown_limit is not None
    if not isinstance(body.limit, str) and not is_table:
        raise ValueError(
            "must be a rate such as '100/minute': this limit has no table of plans with text as "
            "keys, got an object"
        )


def _if_match(request: Request) -> Tags:
    """Return the versions that a change may replace.

    Raises:
        ProblemError: `If-Match` is missing or malformed.
    """
    header = ",".join(request.headers.getlist("if-match"))
    if not header:
        raise ProblemError(
            428, "Precondition required: send If-Match with the ETag that you read, or * for any."
        )
    try:
        return parse_tags(header)
    except ValueError as error:
        raise ProblemError(400, f"Invalid If-Match: {error}.") from None


def _conflict(policy: Policy) -> ProblemError:
    return ProblemError(
        412,
        "Precondition failed: the limit has changed; read it again.",
        headers={"etag": quoted(policy.version)},
    )


def _json(value: object, headers: Mapping[str, str] | None = None) -> Response:
    body = msgspec.json.encode(value)
    return Response(body, 200, {"cache-control": "no-store", **(headers or {})}, "application/json")


def _openapi(prefix: str) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    (one, every, body), components = msgspec.json.schema_components(
        (LimitState, LimitList, LimitBody), ref_template="#/components/schemas/{name}"
    )
    content = {"application/json": {"schema": body}}
    name = {"name": "policy", "in": "path", "required": True, "schema": {"type": "string"}}
    match = {"name": "If-Match", "in": "header", "required": True, "schema": {"type": "string"}}
    changes = (400, 401, 403, 404, 412, 428)

    def operation(summary: str, schema: Any, *statuses: int, **more: Any) -> dict[str, Any]:
        success = {"description": "OK", "content": {"application/json": {"schema": schema}}}
        errors = {
            str(status): {"description": "Rejected", "content": {PROBLEM_JSON: {"schema": {}}}}
            for status in sorted(statuses)
        }
        return {"summary": summary, "responses": {"200": success, **errors}, **more}

    return {
        "openapi": "3.1.0",
        "info": {"title": "Limits", "version": "1"},
        "security": [{"bearer": []}],
        "paths": {
            prefix: {"get": operation("List all limits", every, 401, 403)},
            f"{prefix}/{{policy}}": {
                "parameters": [name],
                "get": operation("Return a limit", one, 401, 403, 404),
                "put": operation(
                    "Change a limit and keep what clients have used",
                    one,
                    *(*changes, 413, 415, 422),
                    parameters=[match],
                    requestBody={"required": True, "content": content},
                ),
                "delete": operation(
                    "Undo all changes of a limit", one, *changes, parameters=[match]
                ),
            },
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
