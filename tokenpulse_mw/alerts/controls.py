"""Changes at run time: thresholds, silences and acknowledgements."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import chain
from types import EllipsisType
from typing import Any
from uuid import uuid4

import anyio

from ..lifespan import LoopLock
from .lifecycle import Finding
from .serialization import finding_from_dict
from .silences import Silences, check_matchers
from .steps import STEP, Steps, batches, in_steps
from .store.protocol import Conflict, EngineState
from .store.records import Ack, AlertRecord, Json, Matcher, Silence, ThresholdsVersion
from .store_writer import StoreWriter
from .thresholds import InvalidThresholds, Thresholds

logger = logging.getLogger("tokenpulse_mw.alerts")


# Calls the store with a timeout; reports an error and returns None.
CallStore = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Controls:
    """Changes an engine at run time, as `engine.controls`.

    Each change is stored first and then takes effect. If the store fails, every method raises its
    `StoreError` and changes nothing.

    Args:
        thresholds: Initial thresholds.
        silences: The active silences.
        store_writer: Writes open changes before an alert is acknowledged.
        apply: Uses other thresholds.
        set_acks: Sets or removes the acknowledgements of open alerts, by id.
        settings_changed: Called with `settings` after a change.
        call: Calls the store with a timeout; returns None if it fails.
        deciding: Lock that is held during an evaluation and a change.
        wall: Returns seconds since the epoch.

    Attributes:
        thresholds: The current thresholds.
        version: The newest version of the thresholds that was set, or None.
        revision: Revision of the store that applies here, or None.
        settings: Values that all processes share, by name; see `set_setting`.
        firing: The last finding of each alert that fires in the store.
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        silences: Silences,
        store_writer: StoreWriter,
        apply: Callable[[Thresholds], Steps[None]],
        set_acks: Callable[[Mapping[str, Ack | None]], Steps[None]],
        settings_changed: Callable[[Mapping[str, Any]], object],
        call: CallStore,
        deciding: LoopLock,
        wall: Callable[[], float],
    ) -> None:
        self._store_writer, self._store = store_writer, store_writer.store
        self._apply_thresholds, self._set_acks = apply, set_acks
        self._settings_changed = settings_changed
        self._call = call
        self._deciding = deciding
        self._refreshing = LoopLock()
        self._wall = wall
        self._silences = silences
        self.reset(thresholds)

    def reset(self, thresholds: Thresholds) -> None:
        """Forget everything that was read from the store."""
        self.thresholds = thresholds
        self.version: ThresholdsVersion | None = None
        self._unknown: Json = {}  # stored thresholds that only another version of the library has
        self._read_version: ThresholdsVersion | None = None  # even if it was invalid
        self.revision: int | None = None
        self.settings: Mapping[str, Any] = {}
        self.firing: list[Finding] = []
        self._silences.replace(())

    @property
    def silences(self) -> list[Silence]:
        """Pending and active silences, by start time."""
        self._silences.expire(self._wall())
        return sorted(self._silences, key=lambda silence: (silence.starts_at, silence.id))

    @property
    def now(self) -> float:
        """The time of the engine in seconds since the epoch."""
        return self._wall()

    def silenced_by(self, finding: Finding) -> str | None:
        """Return the id of an active silence that matches an alert, or None."""
        return self._silences.covers(finding, self._wall())

    async def set_thresholds(
        self, thresholds: Thresholds, *, by: str, expected: int | EllipsisType | None = ...
    ) -> ThresholdsVersion:
        """Use other thresholds from the next evaluation on.

        The next evaluation applies them to open alerts too. Counts are kept, except that error
        rates and latencies are reset if `error_window`, `count_client_errors` or
        `provider_latency_p95` changes.

        Args:
            thresholds: The new thresholds; see `Thresholds.changed`.
            by: Author of the change.
            expected: The version that they replace, None for the first; by default any version.

        Raises:
            Conflict: The store has another version, which now applies here too.
        """
        current = None if self.version is None else self.version.version
        base = current if isinstance(expected, EllipsisType) else expected
        try:
            version = await self._store_thresholds(thresholds, by, base)
        except Conflict as conflict:
            await self.refresh()
            if not isinstance(expected, EllipsisType):
                raise
            version = await self._store_thresholds(thresholds, by, conflict.current)
        await self.refresh()
        return version

    async def acknowledge(self, alert_id: str, *, by: str, note: str = "") -> AlertRecord | None:
        """Acknowledge an alert and stop its reminders.

        Changes of its severity and its resolution are still reported.

        Returns:
            The acknowledged alert, or None if the id is unknown.
        """
        return await self._acknowledge(alert_id, Ack(by, self._wall(), note))

    async def unacknowledge(self, alert_id: str) -> AlertRecord | None:
        """Remove the acknowledgement of an alert."""
        return await self._acknowledge(alert_id, None)

    async def silence(
        self,
        *matchers: Matcher,
        ends_at: float,
        by: str,
        starts_at: float | None = None,
        comment: str = "",
    ) -> Silence:
        """Create a silence: do not report alerts that match all matchers until it ends.

        The resolution of an alert that was reported before is still reported. An alert that still
        fires when the silence ends is reported then.

        Args:
            matchers: Match the labels alertname, severity, subject_kind, subject_id, metric and
                provider.
            ends_at: Seconds since the epoch.
            by: Author of the silence.
            starts_at: Seconds since the epoch; now if None.
            comment: Reason for the silence.

        Raises:
            ValueError: A matcher is invalid, there are too many matchers or silences, or `ends_at`
                is not in the future.
        """
        check_matchers(matchers)
        now = self._wall()
        start = now if starts_at is None else starts_at
        if ends_at <= now:
            raise ValueError(f"ends_at must be after the current time {now!r}, got {ends_at!r}")
        silence = Silence(uuid4().hex, tuple(matchers), start, ends_at, by, comment)
        self._silences.expire(now)
        self._silences.check_capacity()
        await self._store.add_silence(silence)
        await self.refresh()
        return silence

    async def unsilence(self, silence_id: str) -> bool:
        """Remove a silence and return True if it existed."""
        existed = await self._store.remove_silence(silence_id)
        await self.refresh()
        return existed

    async def set_setting(self, name: str, value: Any, *, by: str) -> None:
        """Store a JSON value that all processes share; `settings` of each has it soon.

        Raises:
            ValueError: `value` is not JSON.
        """
        await self._store.set_setting(name, value, by=by, at=self._wall())
        await self.refresh()

    async def refresh(self) -> None:
        """Use the thresholds, silences, acknowledgements and settings that the store has now.

        If the store fails, those that were read last still apply.
        """
        # Shielded: the change that a caller has stored takes effect even if it is cancelled.
        with anyio.CancelScope(shield=True):
            async with self._refreshing():
                state = await self._call(partial(self._store.load, self.revision))
                if state is not None:
                    async with self._deciding():
                        await in_steps(self.adopt(state))

    def repeat_settings(self) -> None:
        """Notify the listeners of the settings again, such as for a limit that was added."""
        if self.settings:
            self._settings_changed(self.settings)

    def skip_revision(self, revision: int | None) -> None:
        """Note the revision after changes that apply here, unless there were others."""
        if self.revision is not None and revision == self.revision + 1:
            self.revision = revision

    def adopt(self, state: EngineState) -> Steps[None]:
        """Use the state of the store; call it between evaluations."""
        if state.thresholds is not None:
            yield from self._adopt(state.thresholds)
        self._silences.replace(state.silences)
        yield from self._set_acks({record.id: record.ack for record in state.alerts})
        firing = list[Finding]()
        for batch in batches(record for record in state.alerts if record.state != "pending"):
            firing += chain.from_iterable(map(_finding_of, batch))
            if len(batch) == STEP:
                yield
        self.firing, self.revision = firing, state.revision
        if state.settings != self.settings:
            self.settings = state.settings
            self._settings_changed(state.settings)

    def _adopt(self, version: ThresholdsVersion) -> Steps[None]:
        """Apply a stored version of the thresholds, unless it was read before."""
        if self._read_version == version:
            return
        self._read_version = version
        known, self._unknown = dict[str, Any](), dict[str, Any]()
        for name, value in version.values.items():
            (known if name in Thresholds.fields() else self._unknown)[name] = value
        try:
            changed = self.thresholds.changed(**known)
        except InvalidThresholds as error:
            logger.error(
                "stored thresholds are invalid, keeping the current ones: version=%d error=%s",
                version.version,
                error,
            )
        else:
            yield from self._apply_thresholds(changed)
            self.thresholds, self.version = changed, version

    async def _store_thresholds(
        self, thresholds: Thresholds, by: str, expected: int | None
    ) -> ThresholdsVersion:
        values = {**self._unknown, **thresholds.as_dict()}
        return await self._store.set_thresholds(values, expected=expected, by=by, at=self._wall())

    async def _acknowledge(self, alert_id: str, ack: Ack | None) -> AlertRecord | None:
        await self._store_writer.write()  # the store may not have the alert yet
        record = await self._store.acknowledge(alert_id, ack)
        await self.refresh()
        return record


def _finding_of(record: AlertRecord) -> list[Finding]:
    """Return the finding of a stored alert, if it is valid."""
    try:
        return [finding_from_dict(record.finding)]
    except (KeyError, TypeError, ValueError):
        return []  # the leader logs and resolves it
