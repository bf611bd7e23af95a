"""Limits changed at run time, which all processes of a gateway share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..alerts import AlertEngine, StoreError
from ..ratelimit import LimitBody, Policy
from ..web.problems import ProblemError

logger = logging.getLogger("tokenpulse_mw")

_PREFIX = "limit:"


class SharedLimits:
    """Changes of limits in all processes that share the alert store.

    Each process applies a change at its next heartbeat, and a new process when it starts.

    Args:
        engine: The alert engine, of which this is a listener.
        policies: Limits; more may be appended later.
    """

    def __init__(self, engine: AlertEngine, policies: Sequence[Policy]) -> None:
        self._engine = engine
        self._policies = policies
        self._applied: dict[str, Any] = {}
        engine.add_listener(self)

    async def keep(self, name: str, change: LimitBody | None, author: str) -> None:
        """Store a change, which the caller applies in this process; None undoes all changes.

        Raises:
            ProblemError: The store failed, or another process has replaced the change.
        """
        policy = next(policy for policy in self._policies if policy.name == name)
        before = self._applied.get(name)
        value = {
            "limit": None if change is None else change.limit,
            "until": None if change is None or change.until is None else change.until.isoformat(),
            # The limit that returns after a block.
            "then": before and before["then"] if policy.blocked_for() else policy.shown_limit,
            "by": author,
            "at": datetime.now(UTC).isoformat(),
            "version": policy.version + 1,
        }
        self._applied[name] = value
        try:
            await self._engine.controls.set_setting(_PREFIX + name, value, by=author)
        except StoreError as error:
            self._applied[name] = before
            logger.error("alert store failed, limit not changed: policy=%s error=%s", name, error)
            detail = "Service unavailable: the alert store failed; see the log."
            raise ProblemError(503, detail) from None
        except BaseException:  # cancelled: if it was stored, the next heartbeat applies it
            self._applied[name] = before
            self.on_settings(self._engine.controls.settings)
            raise
        if self._applied[name] != value:  # another process has stored one since, which applies
            detail = "Precondition failed: the limit has changed in another process; read it again."
            raise ProblemError(412, detail)

    def on_settings(self, settings: Mapping[str, Any]) -> None:
        """Apply the stored changes that differ from those applied before."""
        for policy in self._policies:
            value = settings.get(_PREFIX + policy.name)
            if value is None or value == self._applied.get(policy.name):
                continue
            self._applied[policy.name] = value
            try:
                _apply(policy, value)
            except (KeyError, TypeError, ValueError) as error:
                logger.error("stored limit not applied: policy=%s error=%s", policy.name, error)


def _apply(policy: Policy, value: Mapping[str, Any]) -> None:
    by, limit, text = value["by"], value["limit"], value["until"]
    until = None if text is None else datetime.fromisoformat(text)
    if limit is None:
        policy.restore_rate(by=by)
    elif until is None:
        policy.set_rate(limit, by=by)
    else:
        if value["then"] is not None:
            policy.set_rate(value["then"], by=by)
        if until > datetime.now(UTC):
            policy.set_rate(limit, until=until, by=by)
    policy.version = value["version"]
    if "at" in value and policy.changed is not None:
        policy.changed = datetime.fromisoformat(value["at"]), by
    logger.warning("limit changed: policy=%s to=%s by=%s", policy.name, limit, by)
