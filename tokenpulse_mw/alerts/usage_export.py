"""Export of the usage of ended hours, such as for billing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import anyio

from ..validation import check_functions
from .store.protocol import AlertStore
from .store.usage import UsageRecord, UsageRevision
from .timeouts import call_with_timeout

_GRACE_SECONDS = 900  # after an hour; later traffic, as after an outage, is a new revision
_MAX_ROWS = 500  # of an event
_INTERVAL_SECONDS = 60.0
_TIMEOUT_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_EXPECTED = "usage_sink must be a function of a UsageEvent, such as UsageWebhook(url)"


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one tenant, model and provider in one hour that has ended.

    Attributes:
        id: Identifier of tenant, model, provider and hour, the same in each revision.
        revision: Number of the revision; a higher one replaces all lower ones.
        usage: The whole usage, not only what is new.
        tenant_name: Last known name of the tenant, or None.
    """

    id: str
    revision: int
    usage: UsageRecord
    tenant_name: str | None = None


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """Rows that are exported together.

    Attributes:
        id: Identifier, the same in each attempt with the same rows.
        rows: At most 500 rows, by hour.
    """

    id: str
    rows: tuple[UsageRow, ...]


UsageSink = Callable[[UsageEvent], Awaitable[object]]
# Calls a function, and reports its errors under a name.
Guard = Callable[[str, Callable[[], Awaitable[None]]], Awaitable[None]]


class UsageExporter:
    """Sends the usage of each hour to a sink, at least once, after the hour has ended.

    Args:
        store: Store with the usage.
        sink: Async function of a `UsageEvent`; None to export nothing. An event for which it raises
            is sent again. If it has `aclose`, the exporter awaits it at the end.
        wall: Returns seconds since the epoch.
        leads: Returns True if this process exports for its fleet.
        tenant_name: Returns the name of a tenant, or None.

    Raises:
        ValueError: `sink` is not a function of one argument.
    """

    def __init__(
        self,
        store: AlertStore,
        sink: UsageSink | None,
        *,
        wall: Callable[[], float],
        leads: Callable[[], bool],
        tenant_name: Callable[[str], str | None] = lambda _tenant: None,
    ) -> None:
        if sink is not None:
            check_functions([sink], 1, _EXPECTED)
        self._store, self._sink, self._wall, self._leads = store, sink, wall, leads
        self._tenant_name = tenant_name

    async def export(self) -> None:
        """Send all rows that are due, if this process leads.

        Raises:
            Exception: The store or the sink failed; the rows stay due.
        """
        if self._sink is None:
            return
        before = int((self._wall() - _GRACE_SECONDS) // 3600)
        while self._leads():
            revisions = await self._store.unexported_usage(before, _MAX_ROWS)
            if not revisions:
                return
            event = event_of(revisions, self._tenant_name)
            await call_with_timeout(_TIMEOUT_SECONDS, partial(self._sink, event))
            await self._store.confirm_export(revisions)

    async def run(self, guard: Guard) -> None:
        """Export every minute until cancelled."""
        while self._sink is not None:
            await anyio.sleep(_INTERVAL_SECONDS)
            await guard("usage_sink", self.export)

    async def aclose(self) -> None:
        """Close the sink."""
        aclose = getattr(self._sink, "aclose", None)
        if aclose is not None:
            await call_with_timeout(_CLOSE_SECONDS, aclose)


def event_of(
    revisions: Sequence[UsageRevision],
    tenant_name: Callable[[str], str | None] = lambda _tenant: None,
) -> UsageEvent:
    """Return the event of some revisions."""
    rows = tuple(
        UsageRow(_id(usage), revision, usage, tenant_name(usage.tenant))
        for usage, revision in revisions
    )
    return UsageEvent(_hash(*(f"{row.id}/{row.revision}" for row in rows)), rows)


def _id(usage: UsageRecord) -> str:
    return _hash(str(usage.hour), *usage.key)


def _hash(*texts: str) -> str:
    parts = b"".join(b"%d:%b" % (len(part), part) for part in map(str.encode, texts))
    return sha256(parts).hexdigest()[:32]
