"""What every store of alerts can do, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Json,
    Notification,
    Severity,
    Silence,
    State,
    ThresholdsVersion,
    TransitionRecord,
)

MAX_TRANSITIONS = 100  # of each alert, the newest
MAX_ITEMS = 1000  # of each page


class StoreError(Exception):
    """The store fails, and says why. What was asked did not happen, or only perhaps.

    Asking for the same again is safe.
    """


class BadRecord(StoreError):  # noqa: N818 - a name that others build on
    """Something of what was given can never be kept; nothing of it is, and the rest alone may be.

    Asking for the same again is in vain.
    """


class Conflict(Exception):  # noqa: N818 - a name that others build on
    """Thresholds were changed in the meantime; `current` is the version that holds, if any."""

    def __init__(self, current: int | None) -> None:
        super().__init__(f"the current version of the thresholds is {current}")
        self.current = current


class UnknownAlert(ValueError):  # noqa: N818 - a name that others build on
    """A transition is of an alert that is not kept."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine goes on with when it starts.

    Attributes:
        alerts: Those that are not resolved, the oldest first.
        silences: Those that have not ended, by their start.
        thresholds: The newest version, or None where none was ever set.
        notifications: Those that no sink took yet, in the order in which they were committed.
    """

    alerts: tuple[AlertRecord, ...] = ()
    silences: tuple[Silence, ...] = ()
    thresholds: ThresholdsVersion | None = None
    notifications: tuple[Notification, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What one round of an engine changes, all of it or nothing.

    Attributes:
        alerts: Put in place of what is kept under their id. Whether anyone has seen an alert is
            taken from here only when it is new: after that, `acknowledge` alone changes it.
        transitions: Added to those of their alerts. One that is there already is not added again.
        notifications: Added to those that wait. One whose id is there is left as it is.
        forgotten: The ids of alerts that go without a trace, such as those that never fired.
        engine: Whose round it is; empty where it is not a whole one.
    """

    alerts: tuple[AlertRecord, ...] = ()
    transitions: tuple[TransitionRecord, ...] = ()
    notifications: tuple[Notification, ...] = ()
    forgotten: tuple[str, ...] = ()
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some alerts, and the cursor of those that follow: None where these are the last."""

    items: tuple[AlertRecord, ...]
    next: str | None


class AlertStore(Protocol):
    """Keeps alerts, silences, thresholds, and notifications until they are delivered.

    Each call happens wholly or not at all, also when it is cancelled or the process is killed, and
    what it has done is there for the next one. Whoever gives the same again changes nothing: all
    calls but `set_thresholds` may be repeated when it is not known whether they happened.

    What is over is bounded by count, for resolved alerts, dead letters and versions of thresholds
    each: the oldest are dropped when a new one exceeds it. Of an alert the newest 100 transitions
    are kept. What is not over (open alerts, notifications that wait, silences) is never dropped.
    """

    async def load(self) -> EngineState:
        """What an engine goes on with."""
        ...

    async def commit(self, changes: Changes, /) -> str | None:
        """Keep what has changed.

        Returns:
            The engine whose round was kept before; None where there was none, or who knows.

        Raises:
            UnknownAlert: A transition is of an alert that is neither kept nor given.
            ValueError: A finding or an event is not JSON.
            BadRecord: Something else of it cannot be kept, such as an id that is too long.
        """
        ...

    async def delivered(self, notification_id: str, /) -> None:
        """Forget a notification that was taken, dead or not; an unknown one is forgotten already.

        So it is with `postponed` and `dead`: nothing happens to what does not wait.
        """
        ...

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str, /
    ) -> None:
        """Note that a sink did not take a notification, and when it is asked again."""
        ...

    async def dead(self, notification_id: str, at: float, error: str, /) -> None:
        """Give a notification up; it is a dead letter from now on."""
        ...

    async def dead_letters(self, limit: int, /) -> tuple[DeadLetter, ...]:
        """What was given up, the newest first; `limit` is from 1 to 1000."""
        ...

    async def acknowledge(self, alert_id: str, ack: Ack | None, /) -> AlertRecord | None:
        """Note who has seen an alert, or with None that nobody has.

        Returns:
            The alert as it is now, or None where there is none of that id.
        """
        ...

    async def set_thresholds(
        self, values: Json, /, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Make a new version of the thresholds.

        Args:
            values: By name.
            expected: The version that these are made from; None where there was none yet.
            by: Who sets them.
            at: When.

        Raises:
            Conflict: The current version is another one.
            ValueError: `values` is not JSON.
        """
        ...

    async def history(self, limit: int, /) -> tuple[ThresholdsVersion, ...]:
        """The thresholds that were set, the newest first; `limit` is from 1 to 1000."""
        ...

    async def add_silence(self, silence: Silence, /) -> None:
        """Keep a silence, in place of one of the same id."""
        ...

    async def remove_silence(self, silence_id: str, /) -> bool:
        """Forget a silence, and say whether there was one."""
        ...

    async def silences(self, now: float, /) -> tuple[Silence, ...]:
        """Silences that end after `now`, by their start."""
        ...

    async def alerts(
        self,
        *,
        state: State | None = None,
        severity: Severity | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """A page of alerts, the newest first.

        From one page to the next no alert is missed or given twice, whatever comes in meanwhile.

        Args:
            state: Only those in this state.
            severity: Only those of this severity.
            type: Only those of this type.
            subject: Only those about this one, as `kind:id`.
            limit: How many at most, from 1 to 1000.
            cursor: The `next` of the page before.

        Raises:
            ValueError: An argument is not what it should be.
        """
        ...

    async def alert(self, alert_id: str, /) -> AlertRecord | None:
        """One alert, or None."""
        ...

    async def transitions(self, alert_id: str, /) -> tuple[TransitionRecord, ...]:
        """What has happened to an alert, the oldest first."""
        ...

    async def prune(self, before: float, /) -> None:
        """Forget what was over before `before`.

        These are resolved alerts with their transitions, dead letters, and silences.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what is held open; whoever asks again opens it again."""
        ...


def check_limit(limit: int) -> None:
    """Refuse a limit that is not from 1 to 1000."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_ITEMS:
        raise ValueError(f"limit must be from 1 to {MAX_ITEMS}, got {limit!r}")


def check_history(max_history: int) -> None:
    """Refuse a bound that keeps nothing."""
    if isinstance(max_history, bool) or not isinstance(max_history, int) or max_history < 1:
        raise ValueError(f"max_history must be at least 1, got {max_history!r}")
