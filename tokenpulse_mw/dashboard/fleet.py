"""Numbers of all processes that share the alert store.

While a page is open, each process stores the numbers of each slot, and the process that answers
adds them up. Without a page, a process only reads every few seconds if one is open.
"""

from __future__ import annotations

import logging
import math
import random
import time
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import uuid4

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint
from msgspec import DecodeError, Struct, ValidationError, msgpack

from ..outages import Outage
from .facts import Facts
from .history import KINDS, OTHERS, History
from .sampler import Sampler

logger = logging.getLogger("tokenpulse_mw")

MAX_PAYLOAD_BYTES = 256 * 1024
FRESH_SECONDS = 45.0  # after its last sample, the facts of a live process are included
_NEW_INTERVALS = 1.5  # age of a sample that shows that its process is alive
WATCH_SECONDS = 300.0  # after the last request, in which processes store their numbers
_MARK_SECONDS = 60.0  # between two writes that extend this time
_OVERLAP_SECONDS = 15.0  # in which a sample may be committed after a later one
_MAX_RAW_BYTES = 16 * 1024 * 1024
_MAX_REQUESTS = 50  # in progress, of a process
_THREAD_BYTES = 64 * 1024  # more are compressed in a thread
_DECODED_AT_ONCE = 8 * 1024  # bytes; more are decompressed in a thread
_FLOAT_BYTES = 4
_PROTOCOL = 1

_Rows = dict[str, dict[str, bytes]]  # by kind and name, the rows of all slots


class StoredSample(Protocol):
    """A stored sample."""

    @property
    def process(self) -> str:
        """Id of the process."""
        ...

    @property
    def number(self) -> int:
        """Number of the sample; a later one of the process has a higher number."""
        ...

    @property
    def at(self) -> float:
        """Time of the store at which it was stored."""
        ...

    @property
    def payload(self) -> bytes:
        """The bytes."""
        ...


class SampleStore(Protocol):
    """Part of the alert store that holds samples; any method may fail."""

    async def watch_samples(self, seconds: float, /) -> None:
        """Request samples from all processes for some seconds."""
        ...

    async def samples_watched(self) -> float:
        """Return the seconds for which samples are requested; 0 or less if they are not."""
        ...

    async def put_sample(self, process: str, number: int, payload: bytes, /) -> None:
        """Store a sample, and delete those of the process that are older than an hour."""
        ...

    async def samples(self, after: float, limit: int, /) -> tuple[float, Sequence[StoredSample]]:
        """Return the time of the store, and the oldest samples after a time."""
        ...


class Sample(Struct, array_like=True):
    """Numbers of some slots of a process, and its facts.

    Attributes:
        protocol: Version of this format.
        interval: Seconds of a slot.
        first: The first slot.
        in_flight: Requests in progress at the end of each slot; None for a gap.
        bounds: Upper bounds of the histograms.
        rows: By kind and name, the rows of all slots.
        models: Provider and model by the name of a model.
        routes: Number of routes.
        facts: The facts.
    """

    protocol: int
    interval: float
    first: int
    in_flight: list[float | None]
    bounds: list[float]
    rows: _Rows
    models: dict[str, tuple[str, str]]
    routes: int
    facts: Facts


_DECODER = msgpack.Decoder(Sample)


def encode(sample: Sample) -> bytes:
    """Return a compressed sample."""
    return zlib.compress(msgpack.encode(sample), 1)


def decode(payload: bytes) -> Sample:
    """Return the sample of a payload.

    Raises:
        ValueError: The payload is damaged, too large, or of another protocol.
    """
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(payload, _MAX_RAW_BYTES)
        if not stream.eof:
            raise ValueError("sample is incomplete, or larger than 16 MiB")
        sample = _DECODER.decode(raw)
    except (zlib.error, DecodeError, ValidationError) as error:
        raise ValueError(f"sample is damaged: {error}") from None
    if sample.protocol != _PROTOCOL:
        raise ValueError(f"sample must have protocol {_PROTOCOL}, got {sample.protocol}")
    return sample


class Peer(NamedTuple):
    """Another process.

    Attributes:
        number: Number of its last sample.
        at: Time of the store of its last sample.
        sample: Its last sample, without rows.
    """

    number: int
    at: float
    sample: Sample


class Fleet:
    """Stores the numbers of this process, and adds up those of all.

    Args:
        store: The store.
        sampler: Numbers of this process.
        facts: Returns the facts of this process, with its requests.
        live: Returns the names of the processes that share the store and are alive.
        slots: Number of slots.
        max_names: Maximum number of providers, of routes and of models.
        timeout: Seconds that a call of the store may take.
        clock: Monotonic seconds.
        jitter: Returns the seconds by which a sample is delayed, so that not all processes write
            at once.

    Attributes:
        history: Sums of all processes; None before the first refresh.
    """

    def __init__(
        self,
        store: SampleStore,
        sampler: Sampler,
        *,
        facts: Callable[[], Facts],
        live: Callable[[], frozenset[str]],
        slots: int,
        max_names: int,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: 2 * random.random(),
    ) -> None:
        self._store, self._sampler, self._facts = store, sampler, facts
        self._live, self._slots, self._max_names = live, slots, max_names
        self._timeout, self._clock, self._jitter = timeout, clock, jitter
        self._outage = Outage(logger, clock=clock)
        self._damage = Outage(logger, clock=clock)
        self._sampled = anyio.Event()
        self.clear()

    def clear(self) -> None:
        """Discard everything, and continue as a new process."""
        self._id, self._number, self._published = uuid4().hex, 0, -1
        self.history: History | None = None
        self._merged = -1  # last slot of this process in `history`
        self._peers: dict[str, Peer] = {}
        self._last: dict[str, int] = {}  # last slot of other processes in `history`
        self._read_until = 0.0
        self._now = 0.0  # time of the store
        self._watched_until = self._marked_at = -math.inf

    def watch(self) -> None:
        """Note that the numbers are read now."""
        self._watched_until = self._clock() + WATCH_SECONDS

    def sampled(self) -> None:
        """Note that the sampler has a new slot."""
        self._sampled.set()

    async def run(self) -> None:
        """Store each new slot while a page is open, until cancelled."""
        while True:
            await self._sampled.wait()
            self._sampled = anyio.Event()
            await anyio.sleep(self._jitter())
            await self.publish()

    async def publish(self) -> None:
        """Store the new slots if another process reads them; failures are logged."""
        if len(self._live()) < 2:
            return
        try:
            with anyio.fail_after(self._timeout):
                watched = self._clock() < self._watched_until
                if watched or await self._store.samples_watched() > 0:
                    await self._publish()
        except Exception as error:  # noqa: BLE001 - the next sample has the same slots
            self._outage.failed("live numbers not stored: error=%r", error)
        else:
            self._outage.recovered("live numbers stored again")

    async def _publish(self) -> None:
        history = self._sampler.history
        if history is None or history.end <= self._published:
            return
        payload = await self._payload(history)
        self._number += 1  # a call that failed may have taken effect
        await self._store.put_sample(self._id, self._number, payload)
        self._published = history.end

    async def _payload(self, history: History) -> bytes:
        """Return the slots that are not stored; only the newest ones if they are too large."""
        new = history.last(min(history.end - self._published, history.size))
        # The slots before the first one are not gaps: this process did not exist.
        count = next(
            (len(new) - index for index, slot in enumerate(new) if history.is_reported(slot)), 0
        )
        facts = self._facts()
        facts.requests = facts.requests[:_MAX_REQUESTS]
        while True:
            sample = await self._sample(history, count, facts)
            size = sum(len(rows) for table in sample.rows.values() for rows in table.values())
            payload = (
                await to_thread.run_sync(encode, sample) if size > _THREAD_BYTES else encode(sample)
            )
            if len(payload) <= MAX_PAYLOAD_BYTES or count == 0:
                return payload
            count //= 2

    async def _sample(self, history: History, count: int, facts: Facts) -> Sample:
        slots, totals = history.last(count), self._sampler.totals
        rows: _Rows = {}
        for kind, table in history.tables.items():
            rows[kind] = {}
            for name in [*table.names, OTHERS]:
                if name in table and slots:
                    rows[kind][name] = b"".join(table.row(slot, name).tobytes() for slot in slots)
                    await checkpoint()
        return Sample(
            protocol=_PROTOCOL,
            interval=self._sampler.interval,
            first=slots.start,
            in_flight=history.in_flight(slots),
            bounds=list(history.bounds),
            rows=rows,
            models={}
            if totals is None
            else {name: totals.models[name] for name in rows["model"] if name in totals.models},
            routes=0 if totals is None else len(totals.rows["route"]),
            facts=facts,
        )

    async def refresh(self) -> None:
        """Read what other processes have stored, and add it.

        Raises:
            Exception: The store failed.
        """
        await self._merge_own()
        if len(self._live()) < 2 and not self._peers:
            return
        if self._clock() - self._marked_at >= _MARK_SECONDS:
            await self._store.watch_samples(WATCH_SECONDS)
            self._marked_at = self._clock()
        after, full = self._read_until, True
        while full:
            self._now, samples = await self._store.samples(after, _READ_AT_ONCE)
            for stored in samples:
                await self._merge(stored)
                after = stored.at
            # A sample of a slow transaction may be committed after later ones.
            self._read_until = max(self._read_until, after - _OVERLAP_SECONDS)
            full = len(samples) == _READ_AT_ONCE
        self._expire()

    def fresh(self) -> list[Sample]:
        """Return the last samples of the processes that are included."""
        live = self._live()
        return [peer.sample for peer in self._peers.values() if self._is_fresh(peer, live)]

    def _is_fresh(self, peer: Peer, live: frozenset[str]) -> bool:
        """Return True if a process is alive, as its heartbeat or a new sample shows."""
        age = self._now - peer.at
        is_new = age <= _NEW_INTERVALS * self._sampler.interval
        return is_new or (peer.sample.facts.member in live and age <= FRESH_SECONDS)

    def _expire(self) -> None:
        """Drop processes that have ended, and set the last complete slot."""
        oldest = self._now - self._slots * self._sampler.interval
        self._peers = {key: peer for key, peer in self._peers.items() if peer.at > oldest}
        self._last = {key: last for key, last in self._last.items() if key in self._peers}
        if self.history is not None:
            live = self._live()
            lasts = [
                last
                for key, last in self._last.items()
                if self._is_fresh(self._peers[key], live) and last >= self._merged - 2
            ]
            self.history.end = min([self._merged, *lasts])

    async def _merge_own(self) -> None:
        own = self._sampler.history
        if own is None:
            return
        if self.history is None or self.history.bounds != own.bounds:
            self.history = History(own.bounds, slots=self._slots, max_names=self._max_names)
            self._peers, self._last = {}, {}
            self._merged, self._read_until = -1, 0.0
        for slot in range(max(self._merged + 1, own.end - own.size + 1), own.end + 1):
            if own.is_reported(slot) and self.history.advance(slot):
                for kind, table in own.tables.items():
                    for name in [*table.names, OTHERS]:
                        if name in table and own.is_known(slot):
                            self.history.tables[kind].add(slot, name, table.row(slot, name))
                self.history.report(slot, own.in_flight_at(slot))
                self._merged = slot
                await checkpoint()
        self._merged = self.history.end = own.end

    async def _merge(self, stored: StoredSample) -> None:
        history, known = self.history, self._peers.get(stored.process)
        if stored.process == self._id or history is None:
            return
        if known is not None and stored.number <= known.number:
            return  # read before
        try:
            if len(stored.payload) > _DECODED_AT_ONCE:
                sample = await to_thread.run_sync(decode, stored.payload)
            else:
                sample = decode(stored.payload)
        except ValueError as error:
            self._damage.failed(
                "live numbers of another process skipped: process=%s error=%s",
                stored.process,
                error,
            )
            return
        last = self._last.get(stored.process, -1)
        if sample.interval == self._sampler.interval:
            end = sample.first + len(sample.in_flight) - 1
            for slot in range(max(sample.first, last + 1), end + 1):
                if history.advance(slot):
                    index = slot - sample.first
                    _add(history, sample, slot, index)
                    history.report(slot, sample.in_flight[index])
                    self._last[stored.process] = slot  # a timeout may end this at any await
                    await checkpoint()
        sample.rows = {}
        self._peers[stored.process] = Peer(stored.number, stored.at, sample)


_READ_AT_ONCE = 20  # samples; each has at most `MAX_PAYLOAD_BYTES`


def _add(history: History, sample: Sample, slot: int, index: int) -> None:
    """Add the rows of a slot; without the same bounds, the quantiles of a name are unknown."""
    if sample.in_flight[index] is None:
        return
    same = tuple(sample.bounds) == history.bounds
    for kind in KINDS:
        table = history.tables[kind]
        columns = table.layout.columns
        width = len(columns.counts) + (len(sample.bounds) + 1) * len(columns.histograms)
        for name, rows in sample.rows.get(kind, {}).items():
            row = array("f")
            row.frombytes(rows[index * width * _FLOAT_BYTES : (index + 1) * width * _FLOAT_BYTES])
            if len(row) != width:
                continue
            if not same:
                rest = table.layout.width - len(columns.counts)
                row = row[: len(columns.counts)] + array("f", [math.nan if row[0] else 0.0]) * rest
            table.add(slot, name, row)
