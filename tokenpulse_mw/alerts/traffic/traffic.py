"""Recent traffic of all processes, as rules read it."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from ..steps import Steps, batches
from ..store.records import WindowRecord
from ..thresholds import Thresholds
from . import ErrorWindow, EvaluationCounter, Streaks
from .bucket import (
    PROTOCOL,
    Bucket,
    Columns,
    FailureKey,
    Profile,
    ReportKey,
    Usage,
    check_latencies,
    check_protocol,
    merge_reports,
)
from .classification import GATEWAY, Upstream
from .streaks import Natural, Outcomes, Streak
from .windows import ERROR_KINDS, TrafficWindows

__all__ = ["GATEWAY", "Traffic", "Upstream"]


logger = logging.getLogger("tokenpulse_mw.alerts")


_STATE = "state"


_Subject = TypeVar("_Subject", bound=Hashable)


_BATCH = 1000  # names counted in a step: less than a millisecond


class _State(msgspec.Struct, array_like=True):
    """State of the traffic that is not a window."""

    newest: Natural  # slot
    hot: dict[str, bytes]  # encoded columns by kind of window
    limited: dict[str, Natural]
    tenant_names: list[tuple[str, str]]
    key_tenants: list[tuple[str, str]]
    upstreams: list[tuple[Upstream, Streak]]
    authentications: list[tuple[str, Streak]]


class _Slot(msgspec.Struct, array_like=True):
    profile: Profile | None
    columns: msgspec.Raw


_SLOT = msgspec.msgpack.Decoder(_Slot)
_STATE_DECODER = msgspec.msgpack.Decoder(_State)
_COLUMNS: dict[str, msgspec.msgpack.Decoder[Columns[Any]]] = {
    kind: msgspec.msgpack.Decoder(columns)
    for kind, columns in {
        "request_rate": Columns[str],
        "minute": Columns[str],
        "day": Columns[str],
        "rate_limited": Columns[str],
        "errors": Columns[str],
        "latencies": Columns[tuple[str, Natural]],
        "failures_by_upstream": Columns[FailureKey],
        "upstreams": Columns[Upstream],
    }.items()
}


_EMPTY = msgspec.msgpack.encode(
    _Slot(None, msgspec.Raw(msgspec.msgpack.encode(Columns[Any]([], [], []))))
)


class Traffic:
    """Counts of exchanges by subject, over all processes.

    The processes gather their exchanges in buckets (`TrafficAggregator`); the leader applies them
    between two evaluations. The windows are stored as slots: see `snapshot`.

    Args:
        thresholds: Thresholds that the windows are configured for.
        max_subjects: Maximum number of keys, of tenants and of upstreams counted separately.
        bucket_seconds: Length of the slot of a bucket.
        report_seconds: Seconds for which the reports of a process are used.

    Attributes:
        counts: All windows.
        upstreams: Recent outcomes of each upstream.
        authentications: Recent authentications of each credential.
        tenant_names: Last known name of each recent tenant.
        key_tenants: Last known tenant of each recent key whose tenant has a name.
        thresholds: Thresholds that the windows are configured for.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        *,
        max_subjects: int,
        bucket_seconds: int = 5,
        report_seconds: float = 150,
    ) -> None:
        self.counts = TrafficWindows(
            thresholds, max_subjects=max_subjects, bucket_seconds=bucket_seconds
        )
        self.upstreams: Streaks[Upstream] = Streaks(max_subjects=max_subjects)
        self.authentications: Streaks[str] = Streaks(max_subjects=max_subjects)
        self.tenant_names: OrderedDict[str, str] = OrderedDict()
        self.key_tenants: OrderedDict[str, str] = OrderedDict()
        self.thresholds = thresholds
        self._max_subjects = max_subjects
        self._bucket_seconds = bucket_seconds
        self._report_seconds = report_seconds
        self._newest = 0
        self._later: list[tuple[str, int]] = []  # kind and slot of records that count no longer
        self._reports = deque[tuple[int, dict[ReportKey, Usage]]]()  # slot and reports of a bucket

    def apply(self, bucket: Bucket) -> Steps[None]:
        """Count a bucket in its slot, in bounded steps; complete it before anything else.

        A bucket of an earlier slot than the newest one is late: it is added to the slots that it
        belongs to, except those that a window has passed. Merge all buckets of a slot before, so
        that the highest rates within the slot are exact.
        """
        late = bucket.slot < self._newest
        self._newest = max(self._newest, bucket.slot)
        self.advance(bucket.slot * self._bucket_seconds)
        yield from self.counts.add(bucket)
        for known, added in (
            (self.tenant_names, bucket.tenant_names),
            (self.key_tenants, bucket.key_tenants),
        ):
            for names in batches(added.items(), _BATCH):
                for identity, name in names:
                    self._set_name(known, identity, known.get(identity, name) if late else name)
                yield
        yield from _add_outcomes(self.upstreams, bucket.outcomes)
        yield from _add_outcomes(self.authentications, bucket.authentications)
        if bucket.reports:
            self._reports.append((bucket.slot, bucket.reports))

    @property
    def reports(self) -> dict[ReportKey, Usage]:
        """Recent reports of the rules of all processes: the largest share of each key."""
        reports: dict[ReportKey, Usage] = {}
        for _, reported in self._reports:
            merge_reports(reports, reported)
        return reports

    def advance(self, now: float) -> None:
        """Move all windows on to `now`, in seconds of fleet time; they never move back."""
        self.counts.expire(now)
        oldest = (now - self._report_seconds) / self._bucket_seconds
        while self._reports and self._reports[0][0] < oldest:
            self._reports.popleft()

    def prepare_next_evaluation(self) -> Steps[Callable[[], None]]:
        """Return a function that resets the counts since the last evaluation.

        Call it after all rules; nothing may be counted before it is called.
        """
        return self.counts.prepare_next_evaluation()

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds from now on.

        Counts of tenants are kept. Error rates and latencies are reset if `error_window`,
        `count_client_errors` or the bounds of latencies change.
        """
        self.thresholds = thresholds
        self.counts.reset_if_incompatible(thresholds)
        yield from self.counts.set_levels(thresholds)

    @contextmanager
    def preserve_levels(self) -> Iterator[None]:
        """Restore the levels after the body, in which nothing may be applied."""
        with self.counts.preserve_levels():
            yield

    def set_levels(self, thresholds: Thresholds) -> Steps[None]:
        """Select the subjects near other thresholds, so that rules find them."""
        return self.counts.set_levels(thresholds)

    @property
    def errors(self) -> ErrorWindow[str]:
        """Requests and failures of each key, over the error window."""
        return self.counts.errors

    @property
    def limited(self) -> EvaluationCounter:
        """Limited requests of each tenant since the last evaluation."""
        return self.counts.limited

    @property
    def overflowed(self) -> int:
        """Events counted as `__overflow__`."""
        return self.counts.overflowed

    def snapshot(self) -> Steps[tuple[list[WindowRecord], dict[str, int]]]:
        """Return the slots that changed since the last `confirm_stored`, and what is expired.

        The slot of a record is its start in seconds of fleet time. State that is not a window is a
        record of kind "state" and slot 0. Records of other kinds are ignored by `restore`, so the
        caller can store state of its own beside them.

        Returns:
            The records, and by kind the first slot that is still needed.
        """
        records: list[WindowRecord] = []
        expired: dict[str, int] = {}
        hot: dict[str, bytes] = {}
        for kind, window in self.counts.by_kind.items():
            profile = self._profile_of(kind)
            expired[kind] = int(window.starts_at)
            for start, counts in window.unstored():
                columns = msgspec.Raw((yield from _encoded(counts)))
                payload = msgspec.msgpack.encode(_Slot(profile, columns))
                records.append(WindowRecord(kind, int(start), PROTOCOL, payload))
            hot[kind] = yield from _encoded(window.hot)
        state = _State(
            self._newest,
            hot,
            dict(self.limited.items()),
            list(self.tenant_names.items()),
            list(self.key_tenants.items()),
            list(self.upstreams.items()),
            list(self.authentications.items()),
        )
        yield
        written = {(record.kind, record.slot) for record in records}
        records += [
            WindowRecord(kind, slot, PROTOCOL, _EMPTY)
            for kind, slot in self._later
            if (kind, slot) not in written
        ]
        records.append(WindowRecord(_STATE, 0, PROTOCOL, msgspec.msgpack.encode(state)))
        return records, expired

    def confirm_stored(self) -> None:
        """Leave the slots of the last snapshot out of the next one, unless they change again.

        Call it after the snapshot was stored. Without it, the next snapshot includes them again.
        """
        self._later = []
        for window in self.counts.by_kind.values():
            window.confirm_stored()

    def restore(self, records: Iterable[WindowRecord], now: float) -> Steps[int]:
        """Restore a new object from stored records, and return the number of skipped ones.

        A record that is damaged or of an unknown protocol is skipped with an error in the log. One
        of a later time than `now` is skipped too, because the clock of the store was set back.
        Error rates and latencies that were counted by other thresholds are left out.
        """
        skipped = 0
        hot: dict[str, dict[Any, int]] = {}
        for record in sorted(records, key=lambda record: record.kind != _STATE):
            try:
                if record.kind == _STATE:
                    hot = yield from self._restore_state(record, now)
                elif record.kind in _COLUMNS and record.slot > now + self._bucket_seconds:
                    self._later.append((record.kind, record.slot))
                elif record.kind in _COLUMNS:
                    yield from self._restore_slot(record)
            except ValueError as error:
                skipped += 1
                logger.error(
                    "stored traffic skipped: kind=%s slot=%s error=%s",
                    record.kind,
                    record.slot,
                    error,
                )
            yield
        for kind, window in self.counts.by_kind.items():
            window.restore_hot(hot.get(kind, {}))
            yield
        if self._later:
            logger.warning(
                "clock of the alert store was set back, traffic of a later time skipped: slots=%d",
                len(self._later),
            )
        return skipped + len(self._later)

    def _restore_slot(self, record: WindowRecord) -> Steps[None]:
        check_protocol(record.protocol)
        slot = _SLOT.decode(record.payload)
        counts = _COLUMNS[record.kind].decode(slot.columns).packed()
        if slot.profile != self._profile_of(record.kind):
            return
        if record.kind == "latencies":
            check_latencies(counts, self.counts.profile)
        yield from self.counts.by_kind[record.kind].add_all(counts, record.slot)

    def _profile_of(self, kind: str) -> Profile | None:
        return self.counts.profile if kind in ERROR_KINDS else None

    def _restore_state(self, record: WindowRecord, now: float) -> Steps[dict[str, dict[Any, int]]]:
        check_protocol(record.protocol)
        state = _STATE_DECODER.decode(record.payload)
        hot = {kind: _COLUMNS[kind].decode(columns).packed() for kind, columns in state.hot.items()}
        is_later = state.newest * self._bucket_seconds > now + self._bucket_seconds
        self._newest = int(now // self._bucket_seconds) if is_later else state.newest
        self.advance(self._newest * self._bucket_seconds)
        yield
        for known, stored in (
            (self.tenant_names, state.tenant_names),
            (self.key_tenants, state.key_tenants),
        ):
            for names in batches(stored, _BATCH):
                for identity, name in names:
                    self._set_name(known, identity, name)
                yield
        latest = now if is_later else None
        yield from _restore_streaks(self.upstreams, state.upstreams, latest)
        yield from _restore_streaks(self.authentications, state.authentications, latest)
        for tenant, requests in state.limited.items():
            self.limited.add(tenant, requests)
        return hot

    def _set_name(self, names: OrderedDict[str, str], identity: str, name: str) -> None:
        names[identity] = name
        names.move_to_end(identity)
        if len(names) > self._max_subjects:
            names.popitem(last=False)


def _add_outcomes(streaks: Streaks[_Subject], added: Mapping[_Subject, Outcomes]) -> Steps[None]:
    for outcomes in batches(added.items(), 200):
        for subject, outcome in outcomes:
            streaks.add(subject, outcome)
        yield


def _restore_streaks(
    streaks: Streaks[_Subject], stored: Iterable[tuple[_Subject, Streak]], latest: float | None
) -> Steps[None]:
    """Restore streaks; with `latest`, no outcome is later than it."""
    for batch in batches(stored, _BATCH):
        for subject, streak in batch:
            if latest is not None:
                streak.move_before(latest)
            streaks.restore(subject, streak)
        yield


def _encoded(packed: dict[Any, int]) -> Steps[bytes]:
    """Return packed counts as encoded columns."""
    columns: Columns[Any] = Columns([], [], [])
    for batch in batches(packed.items(), _BATCH):
        part = Columns.of(dict(batch))
        columns.subjects += part.subjects
        columns.counts += part.counts
        columns.weights += part.weights
        yield
    return msgspec.msgpack.encode(columns)
