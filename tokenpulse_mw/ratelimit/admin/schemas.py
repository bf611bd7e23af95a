"""Bodies of requests and responses; the OpenAPI schemas are generated from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

MIN_BLOCK_SECONDS, MAX_BLOCK_SECONDS = 60, 86_400
MAX_REASON_CHARS = 200

_Time = Annotated[datetime, Meta(tz=True)]
_Reason = Annotated[str, Meta(max_length=MAX_REASON_CHARS)]
_Author = Annotated[str, Meta(max_length=100)]


class LimitBody(Struct, forbid_unknown_fields=True):
    """New limit of a policy.

    Attributes:
        limit: A rate such as "200/minute", "0" to block, or the rates of all plans.
        until: For "0": RFC 3339 time at which the limit before returns.
        by: Author, if authorization gives no name.
        reason: Reason of the change.
    """

    limit: str | dict[str, str | None]
    until: datetime | None = None
    by: _Author = ""
    reason: _Reason = ""


class ResetBody(Struct, forbid_unknown_fields=True):
    """Reason of a reset or of the end of a block, and its author."""

    reason: _Reason = ""
    by: _Author = ""


class BlockBody(Struct, forbid_unknown_fields=True):
    """Seconds for which a key is rejected, the reason, and the author."""

    seconds: Annotated[int, Meta(ge=MIN_BLOCK_SECONDS, le=MAX_BLOCK_SECONDS)]
    reason: _Reason = ""
    by: _Author = ""


class LimitState(Struct):
    """A limit.

    Attributes:
        policy: Name of the policy.
        limit: Present rate, such as "200 per minute"; the rates of all plans; or null if a
            function returns them, or a key of the table is not text.
        configured: Limit of the configuration, in the same form.
        default: Rate of keys that the table of plans lacks, or whose rate is not known; null
            without plans, or if such keys are not limited.
        unit: "requests", "tokens", "USD" or "concurrent-requests".
        timezone: Time zone of calendar windows, else null.
        enforced: False in shadow mode.
        status: Status code of a rejection.
        blocked: True if every request is rejected at present.
        blocked_until: Time at which a block ends, or null if that is not known.
        version: Number of changes, which is the ETag.
        changed_at: Time of the last change, or null.
        changed_by: Author of that change, or null.
        key: What requests are counted by, such as "client address".
        storage: "memory" of this process, "workers" of this machine, "redis" or "memcached".
        keys: Number of keys in the table, or null if it is not known.
        max_keys: Size of the table, or null if it has none.
        evictions: Keys that this process has evicted from the full table, or null.
    """

    policy: str
    limit: str | dict[str, str | None] | None
    configured: str | dict[str, str | None] | None
    default: str | None
    unit: str
    timezone: str | None
    enforced: bool
    status: int
    blocked: bool
    blocked_until: datetime | None
    version: int
    changed_at: datetime | None
    changed_by: str | None
    key: str
    storage: str
    keys: int | None
    max_keys: int | None
    evictions: int | None


class LimitList(Struct):
    """All limits."""

    limits: list[LimitState]


class Key(Struct):
    """Usage of one key; of a limit in USD, amounts are dollars.

    Attributes:
        key: Handle of the key, for the paths of this API.
        label: The key in readable form, or a part of its hash if it may be secret.
        used: Used amount.
        limit: Limit of the key; null if the key is not limited at present.
        remaining: Amount that is left.
        resets_at: Time at which all of the limit is available again; null if that is not known.
        blocked_until: Time at which the block of the key ends; null if it is not blocked.
    """

    key: str
    label: str
    used: int | float
    limit: int | float | None
    remaining: int | float | None
    resets_at: _Time | None
    blocked_until: _Time | None


class KeyPage(Struct):
    """Page of keys, blocked ones first, then by the share of the limit that is used.

    Attributes:
        keys: The keys.
        next: Cursor of the next page, null on the last.
        local: True if other processes count in the same limit, and keys may be missing that this
            process has not seen.
        partial: True if the table is so large that only a part of its keys was read.
    """

    keys: list[Key]
    next: str | None
    local: bool
    partial: bool


class Rejection(Struct):
    """Rejections of one key by one policy.

    Attributes:
        policy: Name of the policy.
        key: Handle of the key.
        label: The key in readable form, or a part of its hash.
        count: Number of rejections.
        first_at: Time of the first of them.
        at: Time of the last of them.
        route: Route of the last rejected request, or null if it is not known.
    """

    policy: str
    key: str
    label: str
    count: int
    first_at: _Time
    at: _Time
    route: str | None


class RejectionList(Struct):
    """Keys that this process has rejected, the last one first."""

    rejections: list[Rejection]
    local: bool


class Block(Struct):
    """Block of a key.

    Attributes:
        policy: Name of the policy.
        key: Handle of the key.
        label: The key in readable form, or a part of its hash.
        blocked_until: End of the block.
        reason: Reason of the block.
        by: Author of the block.
        local: True if the block applies to this process only, until it ends.
    """

    policy: str
    key: str
    label: str
    blocked_until: _Time
    reason: str
    by: str
    local: bool


class Action(Struct):
    """A change of a limit or of one of its keys.

    Attributes:
        at: Time of the change.
        by: Author of the change.
        what: "set" or "restore" (a limit); "reset", "block" or "unblock" (a key).
        policy: Name of the policy.
        key: Handle of the key, or null.
        label: The key in readable form, or null.
        reason: Reason of the change.
    """

    at: _Time
    by: str
    what: str
    policy: str
    key: str | None
    label: str | None
    reason: str


class ActionList(Struct):
    """Last changes that this process has made, the newest first."""

    actions: list[Action]
    local: bool
