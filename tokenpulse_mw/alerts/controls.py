"""What people change while an engine runs: thresholds, silences, and who has seen what."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from types import EllipsisType
from uuid import uuid4

import anyio

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
    """Changes an engine while it runs; each change is kept first, and then counts.

    It is `engine.controls`. Every method raises what the store raises where that fails
    (`StoreError`), and nothing has changed then.

    Args:
        thresholds: Those that hold until somebody sets others.
        judge: Goes by them.
        journal: Tells the store of what has happened, before anyone has seen it.
        silences: Those that are heeded.
        catch_up: Goes on with what was kept, unless that is done.
        deciding: Held by an evaluation while it decides; changes wait for it.
        wall: Seconds since the epoch.

    Attributes:
        catch_up: The same. Until it could be done, because the store fails, what was set before
            a restart is not known here.
        thresholds: What the rules compare with.
        version: The newest version of the thresholds that was set, or None.
    """

    def __init__(
        self,
        *,
        thresholds: Thresholds,
        judge: Evaluator,
        silences: Silences,
        journal: StoreWriter,
        catch_up: Callable[[], Awaitable[None]],
        deciding: anyio.Lock,
        wall: Callable[[], float],
    ) -> None:
        self.catch_up = catch_up
        self.thresholds = thresholds
        self.version: ThresholdsVersion | None = None
        self._judge = judge
        self._silences = silences
        self._journal, self._store = journal, journal.store
        self._deciding = deciding
        self._wall = wall

    @property
    def silences(self) -> list[Silence]:
        """Silences that have not ended, by their start."""
        self._silences.expire(self._wall())
        return sorted(self._silences, key=lambda each: (each.starts_at, each.id))

    @property
    def now(self) -> float:
        """Seconds since the epoch, as the engine has them."""
        return self._wall()

    def silenced_by(self, finding: Finding) -> str | None:
        """The id of a silence that an alert falls under now, or None."""
        return self._silences.covers(finding, self._wall())

    async def set_thresholds(
        self, thresholds: Thresholds, *, by: str, expected: int | EllipsisType | None = ...
    ) -> ThresholdsVersion:
        """Let the rules compare with other numbers from the next round on.

        What was counted stays, but for shares and latencies whose own window, or what counts as a
        failure, is another one: these begin anew. The next round judges every alert by what it
        finds with the new numbers.

        Args:
            thresholds: All of them; see `Thresholds.changed`.
            by: Who sets them.
            expected: The version that they were made from, None where there was none; left out,
                whatever version holds.

        Raises:
            Conflict: Another version holds; it is in force here now.
        """
        await self.catch_up()
        current = None if self.version is None else self.version.version
        wanted = current if isinstance(expected, EllipsisType) else expected
        try:
            made = await self._set(thresholds, by, wanted)
        except Conflict as conflict:
            if not isinstance(expected, EllipsisType):
                for version in await self._store.history(1):
                    await self._between_decisions(partial(self._take, version))
                raise
            made = await self._set(thresholds, by, conflict.current)
        await self._between_decisions(partial(self._put, made, thresholds))
        return made

    async def acknowledge(self, alert_id: str, *, by: str, note: str = "") -> AlertRecord | None:
        """Note who has seen an alert: nobody is reminded of it any more.

        That it gets worse or better, and that it is over, is told all the same.

        Returns:
            The alert as it is now, or None where there is none of that id.
        """
        return await self._acknowledge(alert_id, Ack(by, self._wall(), note))

    async def unacknowledge(self, alert_id: str) -> AlertRecord | None:
        """Take back that somebody has seen an alert."""
        return await self._acknowledge(alert_id, None)

    async def silence(
        self,
        *matchers: Matcher,
        ends_at: float,
        by: str,
        starts_at: float | None = None,
        comment: str = "",
    ) -> Silence:
        """Tell nobody of alerts that all of `matchers` pick, for a time.

        Of an alert that was told before, its end is told all the same; of one that still fires
        when the silence ends, so is that.

        Args:
            matchers: Of the labels alertname, severity, subject_kind, subject_id, metric, provider.
            ends_at: Seconds since the epoch.
            by: Who does so.
            starts_at: Seconds since the epoch; now when None.
            comment: Why.

        Raises:
            ValueError: A matcher is none, there are too many, or it ends before it starts.
        """
        check_matchers(matchers)
        now = self._wall()
        begins = now if starts_at is None else starts_at
        if ends_at <= now:
            raise ValueError(f"ends_at must be in the future, got {ends_at!r} at {now!r}")
        made = Silence(uuid4().hex, tuple(matchers), begins, ends_at, by, comment)
        self._silences.expire(now)
        self._silences.check_room()
        await self._store.add_silence(made)
        self._silences.add(made)
        return made

    async def unsilence(self, silence_id: str) -> bool:
        """End a silence, and say whether there was one."""
        was_there = await self._store.remove_silence(silence_id)
        self._silences.remove(silence_id)
        return was_there

    async def resume(self, kept: EngineState) -> None:
        """Continue with what was set before a restart; call it while nothing is decided."""
        if kept.thresholds is not None:
            await in_steps(self._take(kept.thresholds))
        for silence in kept.silences:
            try:
                self._silences.add(silence)
            except ValueError as error:
                logger.error("the silence %s cannot be heeded: %s", silence.id, error)

    async def _between_decisions(self, change: Callable[[], Steps[None]]) -> None:
        """Make a change that the store has kept already, so it is made even if cancelled."""
        with anyio.CancelScope(shield=True):
            async with self._deciding:
                await in_steps(change())

    def _take(self, version: ThresholdsVersion) -> Steps[None]:
        """Let a version of the thresholds that was kept hold, if it is another one."""
        if self.version is not None and self.version.version == version.version:
            return
        known = {
            name: version.values[name] for name in Thresholds.fields() if name in version.values
        }
        try:
            changed = self.thresholds.changed(**known)
        except InvalidThresholds as error:
            logger.error(
                "version %d of the thresholds cannot be used, so others hold: %s",
                version.version,
                error,
            )
        else:
            yield from self._put(version, changed)

    async def _set(
        self, thresholds: Thresholds, by: str, expected: int | None
    ) -> ThresholdsVersion:
        values = thresholds.as_dict()
        return await self._store.set_thresholds(values, expected=expected, by=by, at=self._wall())

    def _put(self, version: ThresholdsVersion, thresholds: Thresholds) -> Steps[None]:
        yield from self._judge.set_thresholds(thresholds)
        self.thresholds, self.version = thresholds, version

    def _note(self, alert_id: str, ack: Ack | None) -> Steps[None]:
        self._judge.board.acknowledge(alert_id, ack)
        yield from ()

    async def _acknowledge(self, alert_id: str, ack: Ack | None) -> AlertRecord | None:
        await self.catch_up()
        await self._journal.write()  # or the store might not know the alert yet
        record = await self._store.acknowledge(alert_id, ack)
        if record is not None:
            await self._between_decisions(partial(self._note, alert_id, ack))
        return record
