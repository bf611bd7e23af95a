"""Changes at run time: thresholds, silences and acknowledgements."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import EllipsisType
from uuid import uuid4

import anyio

from ..lifespan import LoopLock
from .evaluator import Evaluator
from .lifecycle import Finding
from .silences import Silences, check_matchers
from .steps import Steps, in_steps
from .store.protocol import Conflict, EngineState
from .store.records import Ack, AlertRecord, Matcher, Silence, ThresholdsVersion
from .store_writer import StoreWriter
from .thresholds import InvalidThresholds, Thresholds

logger = logging.getLogger("tokenpulse_mw.alerts")


class Controls:
    """Changes an engine at run time, as `engine.controls`.

    Each change is stored first and then takes effect. If the store fails, every method raises its
    `StoreError` and changes nothing.

    Args:
        thresholds: Initial thresholds.
        evaluator: Uses the thresholds.
        store_writer: Writes open changes before an alert is acknowledged.
        silences: The active silences.
        catch_up: Restores the stored state, once.
        deciding: Lock that is held during an evaluation and a change.
        wall: Returns seconds since the epoch.

    Attributes:
        catch_up: Restores the stored state. Until it succeeds, thresholds and silences set before
            a restart are unknown.
        thresholds: The current thresholds.
        version: The newest version of the thresholds that was set, or None.
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        evaluator: Evaluator,
        silences: Silences,
        store_writer: StoreWriter,
        catch_up: Callable[[], Awaitable[None]],
        deciding: LoopLock,
        wall: Callable[[], float],
    ) -> None:
        self.catch_up = catch_up
        self.reset(thresholds, evaluator, silences)
        self._store_writer, self._store = store_writer, store_writer.store
        self._deciding = deciding
        self._wall = wall

    def reset(self, thresholds: Thresholds, evaluator: Evaluator, silences: Silences) -> None:
        """Control another evaluator, as if no threshold was set at run time."""
        self.thresholds = thresholds
        self.version: ThresholdsVersion | None = None
        self._evaluator, self._silences = evaluator, silences

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
        await self.catch_up()
        current = None if self.version is None else self.version.version
        base = current if isinstance(expected, EllipsisType) else expected
        try:
            version = await self._store_thresholds(thresholds, by, base)
        except Conflict as conflict:
            if not isinstance(expected, EllipsisType):
                for newest in await self._store.history(1):
                    await self._between_decisions(partial(self._adopt, newest))
                raise
            version = await self._store_thresholds(thresholds, by, conflict.current)
        await self._between_decisions(partial(self._apply, version, thresholds))
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
        self._silences.add(silence)
        return silence

    async def unsilence(self, silence_id: str) -> bool:
        """Remove a silence and return True if it existed."""
        existed = await self._store.remove_silence(silence_id)
        self._silences.remove(silence_id)
        return existed

    async def resume(self, state: EngineState) -> None:
        """Restore the stored thresholds and silences; call it between evaluations."""
        if state.thresholds is not None:
            await in_steps(self._adopt(state.thresholds))
        for silence in state.silences:
            try:
                self._silences.add(silence)
            except ValueError as error:
                logger.error("stored silence is invalid: silence=%s error=%s", silence.id, error)

    async def _between_decisions(self, change: Callable[[], Steps[None]]) -> None:
        """Apply a change that is already stored, even if the caller is cancelled."""
        with anyio.CancelScope(shield=True):
            async with self._deciding():
                await in_steps(change())

    def _adopt(self, version: ThresholdsVersion) -> Steps[None]:
        """Apply a stored version of the thresholds, unless it is the current one."""
        if self.version is not None and self.version.version == version.version:
            return
        known = {
            name: version.values[name] for name in Thresholds.fields() if name in version.values
        }
        try:
            changed = self.thresholds.changed(**known)
        except InvalidThresholds as error:
            logger.error(
                "stored thresholds are invalid, keeping the current ones: version=%d error=%s",
                version.version,
                error,
            )
        else:
            yield from self._apply(version, changed)

    async def _store_thresholds(
        self, thresholds: Thresholds, by: str, expected: int | None
    ) -> ThresholdsVersion:
        values = thresholds.as_dict()
        return await self._store.set_thresholds(values, expected=expected, by=by, at=self._wall())

    def _apply(self, version: ThresholdsVersion, thresholds: Thresholds) -> Steps[None]:
        yield from self._evaluator.set_thresholds(thresholds)
        self.thresholds, self.version = thresholds, version

    def _set_ack(self, alert_id: str, ack: Ack | None) -> Steps[None]:
        self._evaluator.tracker.acknowledge(alert_id, ack)
        yield from ()

    async def _acknowledge(self, alert_id: str, ack: Ack | None) -> AlertRecord | None:
        await self.catch_up()
        await self._store_writer.write()  # the store may not have the alert yet
        record = await self._store.acknowledge(alert_id, ack)
        if record is not None:
            await self._between_decisions(partial(self._set_ack, alert_id, ack))
        return record
