"""What a call of the store does, step by step, within one transaction of the caller."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from ...steps import in_steps, mapped
from ..protocol import Changes, Kept
from ..records import Ack, AlertRecord, Silence, ThresholdsVersion
from . import alerts, notifications, settings
from .dialects import Dialect
from .rows import (
    Values,
    ack_text,
    alert_values,
    notification_values,
    silence_values,
    transition_values,
)

Rows = tuple[list[Values], list[Values], list[Values]]


class Work:
    """All that a store asks of a database.

    Args:
        dialect: Of the database.
        most: Resolved alerts, dead letters and versions of thresholds that are kept, each.
    """

    def __init__(self, dialect: Dialect, most: int) -> None:
        self._dialect = dialect
        self._most = most

    delivered = staticmethod(notifications.remove_notification)
    postponed = staticmethod(notifications.change_waiting)
    dead_letters = staticmethod(notifications.newest_dead)
    history = staticmethod(settings.newest_thresholds)
    remove_silence = staticmethod(settings.remove_silence)
    silences = staticmethod(settings.lasting_silences)
    alert = staticmethod(alerts.one_alert)
    newest = staticmethod(alerts.newest_alerts)
    transitions = staticmethod(alerts.transitions_of)

    @staticmethod
    async def rows(changes: Changes) -> Rows:
        """Return the alerts, transitions and notifications of `changes` as rows.

        Raises:
            ValueError: A finding or an event is not JSON.
        """
        return (
            await in_steps(mapped(alert_values, changes.alerts)),
            await in_steps(mapped(transition_values, changes.transitions)),
            await in_steps(mapped(notification_values, changes.notifications)),
        )

    async def load(self, connection: AsyncConnection, now: float) -> Kept:
        """What an engine goes on with."""
        return Kept(
            await alerts.open_alerts(connection),
            await settings.lasting_silences(connection, now),
            next(iter(await settings.newest_thresholds(connection, 1)), None),
            await notifications.waiting(connection),
        )

    async def commit(self, connection: AsyncConnection, rows: Rows, changes: Changes) -> str | None:
        """Keep what has changed, and give the engine of the round before."""
        put, happened, told = rows
        await alerts.put_alerts(connection, self._dialect, put)
        await alerts.add_transitions(connection, self._dialect, happened)
        await notifications.add_notifications(connection, self._dialect, told)
        await alerts.forget_alerts(connection, changes.forgotten)
        if any(row["state"] == "resolved" for row in put):
            await alerts.trim_alerts(connection, self._most)
        return await settings.put_engine(connection, self._dialect, changes.engine)

    async def dead(
        self, connection: AsyncConnection, notification_id: str, at: float, error: str
    ) -> None:
        """Give a notification up."""
        values = {"dead_at": at, "last_error": error}
        await notifications.change_waiting(connection, notification_id, values)
        await notifications.trim_dead(connection, self._most)

    async def acknowledge(
        self, connection: AsyncConnection, alert_id: str, ack: Ack | None
    ) -> AlertRecord | None:
        """Note who has seen an alert."""
        await alerts.set_ack(connection, alert_id, ack_text(ack))
        return await alerts.one_alert(connection, alert_id)

    async def set_thresholds(
        self, connection: AsyncConnection, wanted: ThresholdsVersion, expected: int | None
    ) -> ThresholdsVersion:
        """Make `wanted` the version after `expected`."""
        return await settings.add_thresholds(connection, wanted, expected, self._most)

    async def add_silence(self, connection: AsyncConnection, silence: Silence) -> None:
        """Keep a silence."""
        await settings.put_silence(connection, silence_values(silence))

    async def prune(self, connection: AsyncConnection, before: float) -> None:
        """Forget what was over before `before`."""
        await alerts.prune_alerts(connection, before)
        await notifications.prune_dead(connection, before)
        await settings.prune_silences(connection, before)
