"""Interface of alert stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...validation import check_integer
from .records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Json,
    Notification,
    Severity,
    Silence,
    StateFilter,
    ThresholdsVersion,
    TransitionRecord,
)

MAX_TRANSITIONS = 100  # of an alert
MAX_ITEMS = 1000  # of a page


class StoreError(Exception):
    """The store failed; the call had no effect, or its effect is unknown. A retry is safe."""


class BadRecord(StoreError):  # noqa: N818 - a public name
    """A record can never be stored, so the call stored nothing; a retry cannot succeed.

    The other records of the call can be stored without it.
    """


class Conflict(Exception):  # noqa: N818 - a public name
    """The thresholds were changed meanwhile; `current` is the current version, if any."""

    def __init__(self, current: int | None) -> None:
        super().__init__(f"the current version of the thresholds is {current}")
        self.current = current


class UnknownAlert(ValueError):  # noqa: N818 - a public name
    """The alert of a transition is not stored."""

    def __init__(self, alert_id: str) -> None:
        super().__init__(f"alert {alert_id!r} of a transition is not stored: commit it as well")


@dataclass(frozen=True, slots=True)
class EngineState:
    """State from which an engine continues after a restart.

    Attributes:
        alerts: Alerts that are not resolved, the oldest first.
        silences: Silences that have not ended, by start.
        thresholds: Newest version, or None if there is none.
        notifications: Undelivered notifications, in the order in which they were committed.
    """

    alerts: tuple[AlertRecord, ...] = ()
    silences: tuple[Silence, ...] = ()
    thresholds: ThresholdsVersion | None = None
    notifications: tuple[Notification, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one evaluation, stored in one transaction.

    Attributes:
        alerts: New and changed alerts. `ack` is stored for new alerts only; later, `acknowledge`
            changes it.
        transitions: New transitions; those already stored are ignored.
        notifications: New notifications; those whose id is stored are ignored.
        forgotten: Ids of alerts to delete, such as those that never fired.
        engine: Name of the engine; empty if these are not the changes of a whole evaluation.
    """

    alerts: tuple[AlertRecord, ...] = ()
    transitions: tuple[TransitionRecord, ...] = ()
    notifications: tuple[Notification, ...] = ()
    forgotten: tuple[str, ...] = ()
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of alerts; `next` is the cursor of the next page, None for the last one."""

    items: tuple[AlertRecord, ...]
    next: str | None


class AlertStore(Protocol):
    """Stores alerts, silences, thresholds, and notifications until they are delivered.

    Each call takes effect completely or not at all, even if it is cancelled or the process is
    killed, and its effect is visible to the next call. All calls but `set_thresholds` are
    idempotent: repeat them if it is unknown whether they took effect.

    Resolved alerts, dead letters and versions of thresholds are bounded by count: a new one beyond
    the bound replaces the oldest. The newest 100 transitions of each alert are stored. Open alerts,
    undelivered notifications and silences are never dropped.
    """

    async def load(self) -> EngineState:
        """Return the state from which an engine continues."""
        ...

    async def commit(self, changes: Changes, /) -> str | None:
        """Store the changes of an evaluation.

        Returns:
            Name of the engine that stored the previous evaluation, or None if it is unknown.

        Raises:
            UnknownAlert: The alert of a transition is neither stored nor in `changes`.
            ValueError: A finding or an event is not JSON.
            BadRecord: Another value cannot be stored, such as an id that is too long.
        """
        ...

    async def delivered(self, notification_id: str, /) -> None:
        """Delete a delivered notification or dead letter.

        An unknown id is ignored, here and in `postponed` and `dead`.
        """
        ...

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str, /
    ) -> None:
        """Record a failed attempt of a notification and the time of the next one."""
        ...

    async def dead(self, notification_id: str, at: float, error: str, /) -> None:
        """Turn a notification into a dead letter."""
        ...

    async def dead_letters(self, limit: int, /) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters, the newest first; `limit` is from 1 to 1000."""
        ...

    async def acknowledge(self, alert_id: str, ack: Ack | None, /) -> AlertRecord | None:
        """Set the acknowledgement of an alert, or remove it with None.

        Returns:
            The alert with the change, or None if it is unknown.
        """
        ...

    async def set_thresholds(
        self, values: Json, /, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Store a new version of the thresholds and return it.

        Args:
            values: Thresholds by name.
            expected: Version that these were made from; None if there was none.
            by: Author of the change.
            at: Time of the change.

        Raises:
            Conflict: `expected` is not the current version.
            ValueError: `values` is not JSON.
        """
        ...

    async def history(self, limit: int, /) -> tuple[ThresholdsVersion, ...]:
        """Return the newest thresholds, the newest first; `limit` is from 1 to 1000."""
        ...

    async def add_silence(self, silence: Silence, /) -> None:
        """Store a silence; it replaces one of the same id."""
        ...

    async def remove_silence(self, silence_id: str, /) -> bool:
        """Delete a silence; return False if it is unknown."""
        ...

    async def silences(self, now: float, /) -> tuple[Silence, ...]:
        """Return the silences that end after `now`, by start."""
        ...

    async def alerts(
        self,
        *,
        state: StateFilter | None = None,
        severity: Severity | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return a page of alerts, the newest first.

        Over all pages no alert is missing or repeated, even if alerts are added meanwhile.

        Args:
            state: Select alerts in this state; "active" selects firing and recovering ones.
            severity: Select alerts of this severity.
            type: Select alerts of this type.
            subject: Select alerts about this subject, as `kind:id`.
            limit: Maximum number of alerts, from 1 to 1000.
            cursor: `next` of the previous page.

        Raises:
            ValueError: An argument is invalid.
        """
        ...

    async def alert(self, alert_id: str, /) -> AlertRecord | None:
        """Return an alert, or None if it is unknown."""
        ...

    async def transitions(self, alert_id: str, /) -> tuple[TransitionRecord, ...]:
        """Return the transitions of an alert, the oldest first."""
        ...

    async def prune(self, before: float, /) -> None:
        """Delete resolved alerts, dead letters and silences that ended before `before`."""
        ...

    async def aclose(self) -> None:
        """Release resources; the next call acquires them again."""
        ...


def check_limit(limit: int) -> None:
    """Raise ValueError unless `limit` is an integer from 1 to 1000."""
    check_integer("limit", limit, maximum=MAX_ITEMS)
