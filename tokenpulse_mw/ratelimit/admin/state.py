"""State that the endpoints of limits share."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime, timedelta

from ...lifespan import LoopLock
from ...web.operation import ApiRequest
from ...web.problems import ProblemError
from ...web.text import single_line
from ..blocked_keys import BlockedKeys
from ..key_kinds import NameOf, kind_of
from ..policy import Policy
from ..rejections import Rejections
from . import schemas
from .handles import KeyHandles

logger = logging.getLogger("tokenpulse_mw.ratelimit")

_MAX_ACTIONS = 200
_MAX_LABEL_CHARS = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LimitsState:
    """State of the endpoints of limits.

    Args:
        policies: Limits; more may be appended later.
        blocks: Blocked keys.
        rejections: Rejected keys.
        handles: Handles of keys.
        name_of: Returns the readable name of a tenant, or None.

    Attributes:
        actions: Last changes.
        changing: Lock of changes, so that none is lost between a check and a change.
        reading: Lock of reading a table, so that only one request does it at a time.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        blocks: BlockedKeys,
        rejections: Rejections,
        handles: KeyHandles,
        name_of: NameOf,
    ) -> None:
        self.policies = policies
        self.blocks, self.rejections, self.handles = blocks, rejections, handles
        self._name_of = name_of
        self.actions: deque[schemas.Action] = deque(maxlen=_MAX_ACTIONS)
        self.changing, self.reading = LoopLock(), LoopLock()

    def policy_of(self, request: ApiRequest) -> Policy:
        """Return the policy in the path.

        Raises:
            ProblemError: No policy has this name.
        """
        name = request.http.path_params["policy"]
        for policy in self.policies:
            if policy.name == name:
                return policy
        raise ProblemError(404, "Not found: no policy has this name; list them without a name.")

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.blocks.clock()

    def label(self, policy: Policy, key: Hashable, *, with_names: bool = True) -> str:
        """Return a key in readable form, or a part of its hash; tenants with names, or by id."""
        name_of = self._name_of if with_names else unknown_name
        try:
            text = kind_of(policy.key).label(key, name_of)
        except Exception:  # noqa: BLE001 - a key of another kind, or a failing `name_of`
            text = f"key of type {type(key).__name__}"
        return single_line(text, _MAX_LABEL_CHARS)

    def record(
        self, request: ApiRequest, what: str, policy: Policy, key: tuple[Hashable] | None, by: str
    ) -> None:
        """Record and log a change."""
        reason = reason_of(request)
        handle = label = None
        if key is not None:
            handle, label = self.handles.store(policy, key[0]), self.label(policy, key[0])
            logger.warning(
                "key of a limit changed: action=%s policy=%s key=%s by=%s reason=%s",
                what,
                policy.name,
                label,
                by,
                reason or "none",
            )
        action = schemas.Action(to_time(self.now()), by, what, policy.name, handle, label, reason)
        self.actions.appendleft(action)


def reason_of(request: ApiRequest) -> str:
    """Return the reason in the body of a request, or empty text."""
    return single_line(getattr(request.body, "reason", ""), schemas.MAX_REASON_CHARS)


def unknown_name(tenant: str) -> None:
    """Return None: no name is known."""


def to_time(seconds: float) -> datetime:
    """Return seconds since the epoch as a time."""
    return _EPOCH + timedelta(seconds=seconds)
