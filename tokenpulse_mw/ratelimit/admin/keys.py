"""Operations on the keys of limits: list, look up, reset and block."""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Hashable
from contextlib import aclosing
from heapq import nsmallest
from typing import Any, NamedTuple

import anyio.lowlevel

from ...web.operation import ApiRequest, ApiResponse, Operation
from ...web.parameters import Parameter, integer, number
from ...web.problems import ProblemError
from ..blocked_keys import KeyBlock
from ..key_kinds import kind_of
from ..limiters import CURRENCY, MICROS, InFlight, StoredInFlight, StoredLimiter
from ..policy import Policy
from . import schemas
from .key_usage import KEYS_PER_STEP, KeyUsage, is_partial, usage_of, usages
from .state import LimitsState, reason_of, to_time

_HANDLE = re.compile("k_[0-9a-f]{32}")
_BLOCKED_RANK = -2.0  # before all shares
_MAX_LIMIT = 1000
_MAX_QUERY_CHARS = 300

# Stores the block of a key for other processes, and returns True if there may be others. A block
# that has ended is removed.
KeepBlock = Callable[[Policy, Hashable, KeyBlock], Awaitable[bool]]


class Position(NamedTuple):
    """Sort key of a key in the list; unlike an offset, new keys do not shift it."""

    rank: float
    handle: str


class KeyOperations:
    """Operations on the keys of limits.

    Args:
        state: State of the endpoints.
        keep: Stores a block for other processes; None if blocks are only in this one.
    """

    def __init__(self, state: LimitsState, keep: KeepBlock | None) -> None:
        self._state = state
        self._keep = keep

    async def list_limit_keys(self, request: ApiRequest) -> ApiResponse:
        """Return the keys near their limit, or those that match `q`."""
        policy, query = self._state.policy_of(request), request.query
        if query["q"] is not None:
            async with self._state.reading():
                matches = await self._look_up(policy, query["q"])
            return await self._page(policy, matches, None)
        limit = query["limit"]
        async with self._state.reading():
            found = await self._ranked(policy, query["near"], limit + 1, query["cursor"])
        page = found[:limit]
        last = None if len(found) <= limit else as_cursor(page[-1][0])
        return await self._page(policy, [usage for _, usage in page], last)

    async def reset_limit_key(self, request: ApiRequest) -> ApiResponse:
        """Remove the usage of a key."""
        policy = self._state.policy_of(request)
        limiter, key = policy.limiter, await self._key_of(request, policy)
        if isinstance(limiter, InFlight | StoredInFlight):
            raise ProblemError(
                409, "Conflict: requests in progress hold the slots of this limit until they end."
            )
        if isinstance(limiter, StoredLimiter):
            await limiter.reset(key)
        else:
            limiter.reset(key)
        self._state.record(request, "reset", policy, (key,), request.author)
        return ApiResponse(status=204)

    async def block_limit_key(self, request: ApiRequest) -> ApiResponse:
        """Reject all requests of a key for a time."""
        policy = self._state.policy_of(request)
        key = await self._key_of(request, policy)
        async with self._state.changing():
            blocks = self._state.blocks
            if blocks.get(policy, key) is None and blocks.is_full():
                raise ProblemError(
                    409,
                    f"Conflict: {blocks.max_keys} keys are blocked, which is the maximum: remove "
                    "a block, or block the policy.",
                )
            now = self._state.now()
            block = KeyBlock(now + request.body.seconds, now, request.author, reason_of(request))
            is_shared = await self._set(policy, key, block)
        self._state.record(request, "block", policy, (key,), block.by)
        return ApiResponse(
            schemas.Block(
                policy=policy.name,
                key=self._state.handles.store(policy, key),
                label=self._state.label(policy, key),
                blocked_until=to_time(block.until),
                reason=block.reason,
                by=block.by,
                local=not is_shared,
            )
        )

    async def unblock_limit_key(self, request: ApiRequest) -> ApiResponse:
        """End the block of a key."""
        policy = self._state.policy_of(request)
        key = await self._key_of(request, policy)
        async with self._state.changing():
            if self._state.blocks.get(policy, key) is None:
                raise ProblemError(404, "Not found: this key is not blocked.")
            await self._set(policy, key, KeyBlock(0.0, self._state.now(), request.author, ""))
        self._state.record(request, "unblock", policy, (key,), request.author)
        return ApiResponse(status=204)

    async def list_limit_rejections(self, request: ApiRequest) -> ApiResponse:
        """Return the keys that were rejected last."""
        rejections = [
            schemas.Rejection(
                policy=rejected.policy.name,
                key=self._state.handles.store(rejected.policy, rejected.key),
                label=self._state.label(rejected.policy, rejected.key),
                count=rejected.count,
                first_at=to_time(rejected.first),
                at=to_time(rejected.last),
                route=rejected.route,
            )
            for rejected in self._state.rejections.newest(request.query["limit"])
        ]
        return ApiResponse(schemas.RejectionList(rejections, local=True))

    async def list_limit_actions(self, request: ApiRequest) -> ApiResponse:
        """Return the last changes of limits and keys."""
        actions = list(self._state.actions)[: request.query["limit"]]
        return ApiResponse(schemas.ActionList(actions, local=True))

    async def _set(self, policy: Policy, key: Hashable, block: KeyBlock) -> bool:
        """Block or unblock a key; return True if other processes have the same block."""
        is_shared = self._keep is not None and await self._keep(policy, key, block)
        self._state.blocks.set(policy, key, block)
        return is_shared

    async def _ranked(
        self, policy: Policy, near: float, most: int, after: Position | None
    ) -> list[tuple[Position, KeyUsage]]:
        """Return at most `most` keys after a position, in order."""
        blocked = self._state.blocks.of(policy)
        found: list[tuple[Position, KeyUsage]] = []

        def add(rank: float, usage: KeyUsage) -> None:
            nonlocal found
            position = Position(rank, self._state.handles.of(policy, usage.key))
            if after is None or position > after:
                found.append((position, usage))
            if len(found) > 2 * most:
                found = nsmallest(most, found, key=_position)

        for count, key in enumerate(list(blocked), 1):
            add(_BLOCKED_RANK, await usage_of(policy, key) or KeyUsage(key, 0, 0, 0.0))
            if count % KEYS_PER_STEP == 0:
                await anyio.lowlevel.checkpoint()
        async with aclosing(usages(policy)) as entries:
            async for usage in entries:
                share = usage.share
                if share >= near and usage.key not in blocked:
                    add(-share, usage)
        return nsmallest(most, found, key=_position)

    async def _page(
        self, policy: Policy, usages: list[KeyUsage], following: str | None
    ) -> ApiResponse:
        """Return a page of keys; other tasks run while it is made."""
        keys = list[schemas.Key]()
        for count, usage in enumerate(usages, 1):
            keys.append(self._entry(policy, usage))
            if count % KEYS_PER_STEP == 0:
                await anyio.lowlevel.checkpoint()
        is_shared = policy.limiter.storage_kind != "memory"
        return ApiResponse(schemas.KeyPage(keys, following, is_shared, is_partial(policy)))

    async def _look_up(self, policy: Policy, text: str) -> list[KeyUsage]:
        """Return the usage of the keys with this handle, this text, or this label."""
        state = self._state
        stored = state.handles.find(policy, text)
        key = kind_of(policy.key).parse(text) if stored is None else stored[0]
        if stored is not None or key is not None:
            usage = await usage_of(policy, key)
            # An address may be blocked before it sends a request.
            is_listed = isinstance(key, bytes) or state.blocks.get(policy, key) is not None
            if usage is None and is_listed:  # not limited, or in a limit that cannot be read
                usage = KeyUsage(key, 0, 0, 0.0)
            if usage is not None and (usage.used or is_listed):
                return [usage]
        matches = list[KeyUsage]()
        async with aclosing(usages(policy)) as entries:
            async for usage in entries:
                label, plain = (
                    state.label(policy, usage.key, with_names=names) for names in (True, False)
                )
                texts = {label, plain, *label.split(", "), *plain.split(", ")}
                if text in texts or text == state.handles.of(policy, usage.key):
                    matches.append(usage)
                    if len(matches) == _MAX_LIMIT:
                        break
        return matches

    async def _key_of(self, request: ApiRequest, policy: Policy) -> Hashable:
        """Return the key in the path.

        Raises:
            ProblemError: This process knows no key with this handle.
        """
        handle, state = request.http.path_params["key"], self._state
        if not _HANDLE.fullmatch(handle):
            raise _unknown_key()
        stored = state.handles.find(policy, handle)
        if stored is not None:
            return stored[0]
        async with state.reading():
            for key in list(state.blocks.of(policy)):
                if state.handles.of(policy, key) == handle:
                    return key
            for rejected in state.rejections.newest(_MAX_LIMIT):
                if state.handles.of(policy, rejected.key) == handle:
                    return rejected.key
            async with aclosing(usages(policy)) as entries:
                async for usage in entries:
                    if state.handles.of(policy, usage.key) == handle:
                        state.handles.store(policy, usage.key)
                        return usage.key
        raise _unknown_key()

    def _entry(self, policy: Policy, usage: KeyUsage) -> schemas.Key:
        state = self._state
        block = state.blocks.get(policy, usage.key)
        now = state.now()
        is_limited = usage.limit > 0
        resets = is_limited and 0 < usage.reset_after < math.inf
        return schemas.Key(
            key=state.handles.store(policy, usage.key),
            label=state.label(policy, usage.key),
            used=_amount(policy, usage.used),
            limit=_amount(policy, usage.limit) if is_limited else None,
            remaining=_amount(policy, usage.limit - usage.used) if is_limited else None,
            resets_at=to_time(now + usage.reset_after) if resets else None,
            blocked_until=None if block is None else to_time(block.until),
        )


def as_cursor(position: Position) -> str:
    """Return a position as text that is safe in a URL."""
    return urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> Position:
    """Return the position that `cursor` encodes.

    Raises:
        ValueError: It encodes none.
    """
    try:
        data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        rank, handle = json.loads(data)
        if isinstance(handle, str) and math.isfinite(rank):
            return Position(float(rank), handle)
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise ValueError("must be `next` of the previous page (omit it for the first page)")


def _unknown_key() -> ProblemError:
    return ProblemError(
        404,
        "Not found: this process knows no key with this handle; list the keys of the policy, or "
        "look one up with ?q=.",
    )


def _position(entry: tuple[Position, KeyUsage]) -> Position:
    return entry[0]


def _amount(policy: Policy, amount: int) -> int | float:
    """Return an amount in the unit of the policy; micro-dollars as dollars."""
    return amount / MICROS if policy.unit == CURRENCY else amount


def _text(value: str) -> str:
    if not 0 < len(value) <= _MAX_QUERY_CHARS:
        raise ValueError(f"must have 1 to {_MAX_QUERY_CHARS} characters")
    return value


def key_operations(keys: KeyOperations) -> tuple[Operation, ...]:
    """Return the operations; those of all policies precede that of one, which matches them too."""
    of_key: dict[str, Any] = {"right": "limits", "error_statuses": (404, 409)}
    handle = "/{policy}/keys/{key}"
    newest = integer("limit", "Maximum number of entries", maximum=200, default=200)
    return (
        Operation(
            method="GET",
            path="/rejections",
            handle=keys.list_limit_rejections,
            summary="List the keys that were rejected last",
            response_type=schemas.RejectionList,
            query=(newest,),
        ),
        Operation(
            method="GET",
            path="/actions",
            handle=keys.list_limit_actions,
            summary="List the last changes of limits and their keys",
            response_type=schemas.ActionList,
            query=(newest,),
        ),
        Operation(
            method="GET",
            path="/{policy}/keys",
            handle=keys.list_limit_keys,
            summary="List the keys near their limit, or look up a key",
            response_type=schemas.KeyPage,
            query=(
                number("near", "Minimum share of the limit that is used", maximum=1.0, default=0.8),
                integer("limit", "Maximum number of keys", maximum=_MAX_LIMIT, default=100),
                Parameter("cursor", "`next` of the previous page", {"type": "string"}, from_cursor),
                Parameter(
                    "q",
                    "Address, tenant, other text of a key, label or handle; `near` does not apply",
                    {"type": "string", "minLength": 1, "maxLength": _MAX_QUERY_CHARS},
                    _text,
                ),
            ),
            error_statuses=(404,),
        ),
        Operation(
            method="POST",
            path=f"{handle}/reset",
            handle=keys.reset_limit_key,
            summary="Remove the usage of a key",
            status=204,
            body_type=schemas.ResetBody,
            optional=True,
            **of_key,
        ),
        Operation(
            method="PUT",
            path=f"{handle}/block",
            handle=keys.block_limit_key,
            summary="Reject all requests of a key for a time",
            response_type=schemas.Block,
            body_type=schemas.BlockBody,
            **of_key,
        ),
        Operation(
            method="DELETE",
            path=f"{handle}/block",
            handle=keys.unblock_limit_key,
            summary="End the block of a key",
            status=204,
            body_type=schemas.ResetBody,
            optional=True,
            **of_key,
        ),
    )
