"""Interface of alert stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from ...validation import check_integer
from .limits import LimitWindow, LimitWindows
from .records import (
    Ack,
    AlertRecord,
    Batch,
    DeadLetter,
    Json,
    Member,
    Notification,
    Process,
    Severity,
    Silence,
    StateFilter,
    ThresholdsVersion,
    TransitionRecord,
    WindowRecord,
)
from .usage import UsageQuery, UsageRecord, UsageRevision

MAX_TRANSITIONS = 100  # of an alert
MAX_ITEMS = 1000  # of a page
MAX_BATCHES = 720  # of a process: an hour of heartbeats

SAMPLE_SECONDS = 3600  # for which samples are kept
LISTED_SECONDS = 3600  # after its last heartbeat, a process is a member
# After this time a process's row is deleted: batches that it pushes again, because their outcome is
# unknown, are older than all windows.
STORED_SECONDS = 2 * 86_400


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


class Fenced(Exception):  # noqa: N818 - a public name
    """The process no longer leads the fleet; the call had no effect."""

    def __init__(self) -> None:
        super().__init__("the process no longer leads the fleet: another one may lead")


class Leader(NamedTuple):
    """The leader of a fleet; a later leader has a higher epoch.

    Attributes:
        epoch: Number of the leadership.
        process: Name of the process.
    """

    epoch: int
    process: str


class LeaseRequest(NamedTuple):
    """Change of the lease that a heartbeat requests.

    Attributes:
        action: "renew" and "release" have an effect only if the process is the leader of `epoch`;
            "take" only if epoch and beat are still those of the arguments.
        epoch: The process's own epoch; for "take", the one that it read.
        beat: For "take", the beat that it read.
    """

    action: Literal["renew", "take", "release"]
    epoch: int
    beat: int = 0


@dataclass(frozen=True, slots=True)
class FleetState:
    """Outcome of a heartbeat: the fleet as the store has it afterwards.

    Attributes:
        now: Current time of the store, in seconds since the epoch.
        is_reference: True if `now` is the clock of all processes; False if it is this process's.
        epoch: Number of the current or last leadership.
        beat: Number of writes of leaders; a lease is alive if it changes.
        holder: Name of the leading process, or None after it released the lease.
        revision: Number of changes of thresholds, silences, acknowledgements, settings and open
            alerts.
        evaluated_at: Time of the last evaluation, or None before the first.
        complete_since: Time from which the stored windows have all traffic.
        granted: True if the requested change of the lease took effect.
        pushed: Number of the last batch of this process before the heartbeat.
        members: The processes that have sent a heartbeat within the last hour, by start.
    """

    now: float
    is_reference: bool
    epoch: int
    beat: int
    holder: str | None
    revision: int
    evaluated_at: float | None
    complete_since: float
    granted: bool
    pushed: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class EngineState:
    """State that all processes of a fleet share.

    Attributes:
        revision: See `FleetState.revision`.
        alerts: Alerts that are not resolved, the oldest first.
        silences: Silences that have not ended, by start.
        thresholds: Newest version, or None if there is none.
        settings: Values of `set_setting` by name.
    """

    revision: int = 0
    alerts: tuple[AlertRecord, ...] = ()
    silences: tuple[Silence, ...] = ()
    thresholds: ThresholdsVersion | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaderState:
    """State from which a new leader continues.

    Attributes:
        state: State that all processes share.
        notifications: Undelivered notifications, in the order in which they were committed.
        windows: Stored windows.
        batches: All batches that the windows do not have, by process and number.
        evaluated_at: See `FleetState.evaluated_at`.
        complete_since: See `FleetState.complete_since`.
    """

    state: EngineState
    notifications: tuple[Notification, ...]
    windows: tuple[WindowRecord, ...]
    batches: tuple[Batch, ...]
    evaluated_at: float | None
    complete_since: float


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one evaluation, stored in one transaction.

    Attributes:
        alerts: New and changed alerts. `ack` is stored for new alerts only; later, `acknowledge`
            changes it.
        transitions: New transitions; those already stored are ignored.
        notifications: New notifications; those whose id is stored are ignored.
        forgotten: Ids of alerts to delete, such as those that never fired.
        windows: New and changed slots of windows, each as a whole.
        expired: By kind of window, the first slot that is still needed; earlier ones are deleted.
        consumed: Process and number of each batch that `windows` include; they are deleted.
        evaluated_at: Time of the evaluation, or None to keep the last one.
        complete_since: See `FleetState.complete_since`; None to keep it.
    """

    alerts: tuple[AlertRecord, ...] = ()
    transitions: tuple[TransitionRecord, ...] = ()
    notifications: tuple[Notification, ...] = ()
    forgotten: tuple[str, ...] = ()
    windows: tuple[WindowRecord, ...] = ()
    expired: Mapping[str, int] = field(default_factory=dict)
    consumed: tuple[tuple[str, int], ...] = ()
    evaluated_at: float | None = None
    complete_since: float | None = None


class SampleRecord(NamedTuple):
    """Numbers of a process, for the live page.

    Attributes:
        process: Id of the process.
        number: Number of the sample.
        at: Time of the store at which it was stored.
        payload: The numbers.
    """

    process: str
    number: int
    at: float
    payload: bytes


class SamplePage(NamedTuple):
    """Samples, and the time of the store."""

    now: float
    samples: tuple[SampleRecord, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of alerts; `next` is the cursor of the next page, None for the last one."""

    items: tuple[AlertRecord, ...]
    next: str | None


class AlertStore(Protocol):
    """Stores alerts, silences, thresholds, traffic windows, and undelivered notifications.

    All engines that share a store are one fleet, of which one process leads: it alone evaluates.
    The store holds the lease of the leader, and fences its writes: those of an earlier leader have
    no effect and raise `Fenced`.

    Each call takes effect completely or not at all, even if it is cancelled or the process is
    killed, and its effect is visible to the next call. All calls but `claim` and
    `set_thresholds` are idempotent: repeat them if it is unknown whether they took effect.

    Resolved alerts, dead letters and versions of thresholds are bounded by count: a new one beyond
    the bound replaces the oldest. Usage is bounded by days. The newest 100 transitions of each
    alert are stored. Open alerts, undelivered notifications and silences are never dropped.
    """

    async def heartbeat(
        self,
        process: Process,
        /,
        *,
        batches: Sequence[Batch],
        through: int,
        lease: LeaseRequest | None,
    ) -> FleetState:
        """Store the traffic of a process, change the lease, and return the fleet.

        Args:
            process: The process.
            batches: New batches of the process, by number. A batch whose number is not above the
                last stored one was stored before and is ignored, so that a call whose outcome is
                unknown can be repeated. If no process leads, batches are not consumed: those of
                the process whose number is 720 or more below the newest one are deleted.
            through: Slot up to which the process has now pushed all of its traffic.
            lease: Change of the lease, if any.
        """
        ...

    async def take_over(self, leader: Leader, /) -> LeaderState:
        """Return the state from which a new leader continues, in one snapshot.

        Raises:
            Fenced: The process does not lead.
        """
        ...

    async def batches(self, after: Mapping[str, int], /) -> tuple[Batch, ...]:
        """Return the stored batches by process and number.

        Args:
            after: By process, the number of the last batch that is already known.
        """
        ...

    async def load(self, known_revision: int | None = None, /) -> EngineState | None:
        """Return the state that all processes share; None if it has the known revision."""
        ...

    async def commit(self, changes: Changes, /, *, leader: Leader) -> int:
        """Store the changes of an evaluation and return the new revision.

        The revision changes only if open alerts change.

        Raises:
            Fenced: The process no longer leads; nothing was stored.
            UnknownAlert: The alert of a transition is neither stored nor in `changes`.
            ValueError: A finding or an event is not JSON.
            BadRecord: Another value cannot be stored, such as an id that is too long.
        """
        ...

    async def claim(self, notification_id: str, /, *, leader: Leader) -> None:
        """Count an attempt of a notification before it is made; an unknown id is ignored.

        Raises:
            Fenced: The process no longer leads, so it must not attempt it.
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

    async def queue_lengths(self) -> Mapping[str, int]:
        """Return the number of undelivered notifications by sink, without sinks that have none."""
        ...

    async def dead_letter_counts(self) -> Mapping[str, int]:
        """Return the number of dead letters by sink, without sinks that have none."""
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

    async def usage(self, query: UsageQuery, /) -> tuple[UsageRecord, ...]:
        """Return the usage of models by time and dimensions, in this order.

        Each batch of `heartbeat` counts once. Dimensions that are not in `query.by` are empty. The
        usage of the newest seconds is not stored yet.
        """
        ...

    async def unexported_usage(self, before: int, limit: int, /) -> tuple[UsageRevision, ...]:
        """Return at most `limit` rows that have grown since their export, by hour and key.

        Args:
            before: Hour since the epoch before which an hour is exported.
            limit: Maximum number of rows.
        """
        ...

    async def confirm_export(self, revisions: Sequence[UsageRevision], /) -> None:
        """Record that revisions were exported; rows that have grown since are exported again."""
        ...

    async def save_windows(
        self,
        policy: str,
        process: str,
        windows: Sequence[LimitWindow],
        /,
        *,
        replaces: Sequence[str] = (),
    ) -> None:
        """Replace the stored windows of a limit of a process; a repeated call has no effect.

        Args:
            policy: Name of the limit.
            process: Name of the process, different after each start.
            windows: Windows with different keys.
            replaces: Processes whose windows `process` has loaded, and which are deleted. A process
                that is still running stores its windows again.
        """
        ...

    async def load_windows(self, policy: str, /) -> LimitWindows:
        """Return the windows of a limit that have not ended."""
        ...

    async def watch_samples(self, seconds: float, /) -> None:
        """Request samples from all processes for some seconds; an earlier end has no effect."""
        ...

    async def samples_watched(self) -> float:
        """Return the seconds for which samples are requested; 0 or less if they are not."""
        ...

    async def put_sample(self, process: str, number: int, payload: bytes, /) -> None:
        """Store a sample of a process, and delete its samples that are older than an hour.

        A store in memory has one process, and stores none.

        Args:
            process: Id of the process, different after each start.
            number: Number of the sample; one of the same number is replaced.
            payload: The sample.
        """
        ...

    async def samples(self, after: float, limit: int, /) -> SamplePage:
        """Return the samples of the last hour that were stored after a time, the oldest first."""
        ...

    async def silences(self, now: float, /) -> tuple[Silence, ...]:
        """Return the silences that end after `now`, by start."""
        ...

    async def set_setting(self, name: str, value: Any, /, *, by: str, at: float) -> None:
        """Store a named JSON value that all processes share, such as a log level.

        Raises:
            ValueError: `value` is not JSON.
        """
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
        """Delete resolved alerts, dead letters and silences that ended before `before`.

        Usage is deleted after the number of days that the store was created with.
        """
        ...

    async def aclose(self) -> None:
        """Release resources; the next call acquires them again."""
        ...


def check_limit(limit: int) -> None:
    """Raise ValueError unless `limit` is an integer from 1 to 1000."""
    check_integer("limit", limit, maximum=MAX_ITEMS)
