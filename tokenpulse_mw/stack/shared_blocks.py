"""Blocked keys of limits, which all processes of a gateway share."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import Any

import anyio
import msgspec

from ..alerts import AlertEngine, StoreError
from ..alerts.store import MemoryAlertStore
from ..ratelimit import BlockedKeys, KeyBlock, Policy
from ..ratelimit.encoding import decode_key, encode_key
from ..web.problems import ProblemError
from ..web.text import single_line

logger = logging.getLogger("tokenpulse_mw")

_PREFIX = "limit-blocks:"
_KEPT_SECONDS = 86_400  # for which the end of a block is stored: no block lasts longer
_MAX_CHANGES = 2000  # of a policy
_MAX_READ = 2 * _MAX_CHANGES  # two processes may have stored theirs
_MAX_TEXT_CHARS = 4096
_WATCH_SECONDS = 5.0
_LATER_SECONDS = 0.001  # between two changes of a key
_MAX_ERROR_CHARS = 200

Changes = dict[str, KeyBlock]  # by the encoded key in hexadecimal


class SharedBlocks:
    """Blocked keys in all processes that share the alert store.

    Each process applies a change at its next heartbeat, and a new process when it starts. The
    stored value of a policy has the last change of each key. A process reads it before it adds a
    change. If two processes do so in the same moment, one change is missing in the store until a
    process that has it stores it again.

    Args:
        engine: The alert engine, of which this is a listener.
        policies: Limits; more may be appended later.
        blocks: Blocked keys of this process.
    """

    def __init__(
        self, engine: AlertEngine, policies: Sequence[Policy], blocks: BlockedKeys
    ) -> None:
        self._engine, self._policies, self._blocks = engine, policies, blocks
        self._changes: dict[str, Changes] = {}
        self._lost = set[str]()  # policies of which another process has overwritten a change
        engine.add_listener(self)

    async def keep(self, policy: Policy, key: Hashable, block: KeyBlock) -> bool:
        """Store a block, which the caller applies in this process.

        Returns:
            True if other processes may have the store; False if only this one has the block.

        Raises:
            ProblemError: The store failed.
        """
        try:
            name = encode_key(key).hex()
        except ValueError:  # no other process can have this key
            return False
        if len(name) > _MAX_TEXT_CHARS:
            return False
        await self._engine.controls.refresh()  # calls `on_settings` with the changes of others
        before = self._changes.get(policy.name, {}).get(name)
        if before is not None and block.at <= before.at:  # by a process whose clock is ahead
            block = block._replace(at=before.at + _LATER_SECONDS)
        changes = self._merged(policy, {name: block})
        try:
            await self._engine.controls.set_setting(_PREFIX + policy.name, changes, by=block.by)
        except StoreError as error:
            logger.error(
                "alert store failed, key not changed: policy=%s error=%s", policy.name, error
            )
            detail = "Service unavailable: the alert store failed; see the log."
            raise ProblemError(503, detail) from None
        self._changes[policy.name] = self._merged(policy, {name: block})
        return not isinstance(self._engine.store, MemoryAlertStore)

    async def watch(self) -> None:
        """Store changes again that another process has overwritten."""
        while True:
            await anyio.sleep(_WATCH_SECONDS)
            await self.store_lost()

    async def store_lost(self) -> None:
        """Store changes again that another process has overwritten, unless one has done so."""
        if self._lost:
            await self._engine.controls.refresh()
        for policy in self._policies:
            if policy.name not in self._lost:
                continue
            changes = self._merged(policy, {})
            name, by = _PREFIX + policy.name, list(changes.values())[-1].by if changes else ""
            try:
                await self._engine.controls.set_setting(name, changes, by=by)
            except StoreError as error:
                logger.error("blocks not stored: policy=%s error=%s", policy.name, error)

    def on_settings(self, settings: Mapping[str, Any]) -> None:
        """Apply the stored changes that are newer than those applied before."""
        for policy in self._policies:
            value = settings.get(_PREFIX + policy.name)
            if value is None:
                continue
            known = self._changes.get(policy.name, {})
            stored, keys = self._read(policy, value)
            newer = {
                name: change
                for name, change in stored.items()
                if name not in known or change.at > known[name].at
            }
            self._changes[policy.name] = changes = self._merged(policy, newer)
            for name, change in newer.items():
                if name in changes:
                    self._blocks.set(policy, keys[name], change)
            self._lost.discard(policy.name)
            if any(
                name not in stored or stored[name].at < change.at
                for name, change in changes.items()
            ):
                self._lost.add(policy.name)

    def _read(self, policy: Policy, value: Any) -> tuple[Changes, dict[str, Hashable]]:
        """Return the changes in a stored value, and their keys; skip and log malformed ones."""
        changes, keys = Changes(), dict[str, Hashable]()
        latest = self._blocks.clock() + 2 * _KEPT_SECONDS
        skipped, last = 0, ""
        items = value.items() if isinstance(value, dict) else [("", value)]
        for name, item in islice(items, _MAX_READ):
            try:
                change = msgspec.convert(item, KeyBlock)
                if not (change.at < latest and change.until < latest):
                    raise ValueError("times must be at most two days from now")
                if max(len(name), len(change.by), len(change.reason)) > _MAX_TEXT_CHARS:
                    raise ValueError(f"texts must have at most {_MAX_TEXT_CHARS} characters")
                keys[name] = decode_key(bytes.fromhex(name))
            except (TypeError, ValueError) as error:
                skipped, last = skipped + 1, single_line(str(error), _MAX_ERROR_CHARS)
            else:
                changes[name] = change
        if skipped:
            logger.error(
                "stored blocks skipped: policy=%s count=%d error=%s", policy.name, skipped, last
            )
        return changes, keys

    def _merged(self, policy: Policy, newer: Changes) -> Changes:
        """Return the last change of each key, without those that no longer have an effect."""
        oldest = self._blocks.clock() - _KEPT_SECONDS
        changes = {**self._changes.get(policy.name, {}), **newer}
        current = [item for item in changes.items() if item[1].at > oldest]
        current.sort(key=lambda item: item[1].at)
        return dict(current[-_MAX_CHANGES:])
