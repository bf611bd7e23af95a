"""Operations on limits: list, return and change."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from math import isinf

from ...web.etag import if_match, quoted
from ...web.operation import ApiRequest, ApiResponse, Operation
from ...web.problems import ProblemError, invalid
from ..key_kinds import kind_of
from ..limiters import InFlight, Limiter
from ..policy import Policy
from .schemas import LimitBody, LimitList, LimitState
from .state import LimitsState

logger = logging.getLogger("tokenpulse_mw.ratelimit")

_MAX_COUNTED = 50_000  # keys of a file; to count more would delay requests

# Stores a change for other processes: name of the policy, the change, None after a DELETE, and
# the author.
KeepLimit = Callable[[str, LimitBody | None, str], Awaitable[object]]


class LimitOperations:
    """Operations on limits.

    Args:
        state: State of the endpoints.
        keep: Stores a change for other processes; None if changes are only in this one.
    """

    def __init__(self, state: LimitsState, keep: KeepLimit | None) -> None:
        self._state = state
        self._keep = keep

    async def list_limits(self, request: ApiRequest) -> ApiResponse:  # noqa: ARG002
        """Return all limits."""
        return ApiResponse(LimitList([limit_state(policy) for policy in self._state.policies]))

    async def get_limit(self, request: ApiRequest) -> ApiResponse:
        """Return a limit."""
        return _response(self._state.policy_of(request))

    async def put_limit(self, request: ApiRequest) -> ApiResponse:
        """Change a limit."""
        return await self._change(request, request.body)

    async def delete_limit(self, request: ApiRequest) -> ApiResponse:
        """Undo all changes of a limit."""
        return await self._change(request, None)

    async def _change(self, request: ApiRequest, body: LimitBody | None) -> ApiResponse:
        """Apply the change in a body; None undoes all changes."""
        policy, tags, by = self._state.policy_of(request), if_match(request.http), request.author
        async with self._state.changing():
            if not tags.match(str(policy.version)):
                raise _conflict(policy)
            await self._apply(policy, body, by)
        what = "restore" if body is None else "set"
        self._state.record(request, what, policy, None, by)
        return _response(policy)

    async def _apply(self, policy: Policy, body: LimitBody | None, by: str) -> None:
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


def limit_state(policy: Policy) -> LimitState:
    """Return the state of a limit."""
    limiter = policy.limiter
    table = limiter if isinstance(limiter, Limiter) else None
    left, now = policy.blocked_for(), datetime.now(UTC)
    changed_at, changed_by = policy.changed or (None, None)
    return LimitState(
        policy=policy.name,
        limit=policy.shown_limit,
        configured=policy.configured_limit,
        default=None if policy.plans is None else policy.plans.default,
        unit=policy.unit,
        timezone=getattr(limiter, "timezone", None),
        enforced=policy.enforce,
        status=policy.status,
        blocked=left is not None,
        blocked_until=None if left is None or isinf(left) else now + timedelta(seconds=left),
        version=policy.version,
        changed_at=changed_at,
        changed_by=changed_by,
        key=kind_of(policy.key).text,
        storage=limiter.storage_kind,
        keys=_count(policy),
        max_keys=None if table is None else table.max_keys,
        evictions=None if table is None else table.evictions,
    )


def _count(policy: Policy) -> int | None:
    """Return the number of keys in the table, or None if it is not known."""
    limiter = policy.limiter
    is_file = limiter.storage_kind == "workers"
    if isinstance(limiter, Limiter) and (not is_file or limiter.max_keys <= _MAX_COUNTED):
        return len(limiter)
    return len(limiter) if isinstance(limiter, InFlight) and not is_file else None


def _response(policy: Policy) -> ApiResponse:
    return ApiResponse(limit_state(policy), headers={"etag": quoted(policy.version)})


def _check_plans(policy: Policy, body: LimitBody) -> None:
    """Check that a change by plan replaces a table, since a function cannot be shown."""
    is_table = policy.plans is not None and policy.shown_limit is not None
    if not isinstance(body.limit, str) and not is_table:
        raise ValueError(
            "must be a rate such as '100/minute': this limit has no table of plans with text as "
            "keys, got an object"
        )


def _conflict(policy: Policy) -> ProblemError:
    return ProblemError(
        412,
        "Precondition failed: the limit has changed; read it again.",
        headers={"etag": quoted(policy.version)},
    )


def limit_operations(limits: LimitOperations) -> tuple[Operation, ...]:
    """Return the operations."""
    match = {"If-Match": True}
    changed = (404, 412, 428)
    return (
        Operation(
            method="GET",
            path="",
            handle=limits.list_limits,
            summary="List all limits",
            response_type=LimitList,
        ),
        Operation(
            method="GET",
            path="/{policy}",
            handle=limits.get_limit,
            summary="Return a limit",
            response_type=LimitState,
            headers=("ETag",),
            error_statuses=(404,),
        ),
        Operation(
            method="PUT",
            path="/{policy}",
            handle=limits.put_limit,
            summary="Change a limit and keep what clients have used",
            right="limits",
            response_type=LimitState,
            body_type=LimitBody,
            conditions=match,
            headers=("ETag",),
            error_statuses=changed,
        ),
        Operation(
            method="DELETE",
            path="/{policy}",
            handle=limits.delete_limit,
            summary="Undo all changes of a limit",
            right="limits",
            response_type=LimitState,
            conditions=match,
            headers=("ETag",),
            error_statuses=changed,
        ),
    )
