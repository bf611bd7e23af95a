"""Requests in progress: their age, and how long each has been idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal, NamedTuple, Protocol

import anyio

from .exchange import Exchange

Phase = Literal["waiting", "streaming"]

_SAMPLE_SECONDS = 5


class OpenRecorder(Protocol):
    """Recorder of a request in progress."""

    started: float

    @property
    def messages(self) -> int:
        """Number of messages of the request and the response so far."""
        ...

    @property
    def phase(self) -> Phase:
        """`waiting` for the first byte of the response body, then `streaming`."""
        ...

    @property
    def may_be_idle(self) -> bool:
        """True for a stream that is not the response to a POST, such as an event feed."""
        ...

    def snapshot(self) -> Exchange:
        """Return the exchange as far as it is known."""
        ...


class RequestInProgress(NamedTuple):
    """A request in progress.

    Attributes:
        id: Number of the request in this process.
        phase: `waiting` for the first byte of the response body, then `streaming`.
        idle: Seconds since the last message in either direction; 0 for a stream that may be idle,
            which is one that is not the response to a POST. After the first message, it may be up
            to the seconds between two samples too small, and is never too large.
        exchange: The exchange as far as it is known; its duration is the age of the request.
    """

    id: int
    phase: Phase
    idle: float
    exchange: Exchange


class RequestsInProgress:
    """Requests in progress in this process.

    `ExchangeMiddleware` adds a request and removes it at its end, so their number is bounded by the
    connections that the server accepts. A WebSocket counts until it is accepted. Messages of a
    request cost nothing: `sample` compares their number with that of the last call, so call it
    every few seconds, as `watch` does.

    Args:
        clock: Monotonic seconds; the same as that of the middleware.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        if not callable(clock):
            raise ValueError(f"clock must be a function such as time.perf_counter, got {clock!r}")
        self.open: dict[OpenRecorder, None] = {}  # in order of arrival; recorders edit it directly
        self._clock = clock
        self._samples: dict[OpenRecorder, _Sample] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self.open)

    def oldest(self) -> float:
        """Return the age of the oldest request in seconds; 0 without requests."""
        # A copy, because a scrape may run in another thread.
        return next((self._clock() - recorder.started for recorder in list(self.open)), 0.0)

    def longest_idle(self) -> dict[Phase, float]:
        """Return the longest idle time in seconds of the requests in each phase."""
        longest: dict[Phase, float] = {"waiting": 0.0, "streaming": 0.0}
        for recorder, sample, now in self._sampled():
            longest[recorder.phase] = max(longest[recorder.phase], _idle(recorder, sample, now))
        return longest

    def requests(self, *, limit: int = 100, min_idle: float = 0.0) -> list[RequestInProgress]:
        """Return the oldest requests that have been idle for `min_idle` seconds, oldest first."""
        idle = (
            (recorder, sample.id, seconds)
            for recorder, sample, now in self._sampled()
            if (seconds := _idle(recorder, sample, now)) >= min_idle
        )
        return [
            RequestInProgress(number, recorder.phase, seconds, recorder.snapshot())
            for recorder, number, seconds in islice(idle, limit)
        ]

    def sample(self) -> None:
        """Note for each request whether it has had messages since the last call."""
        samples: dict[OpenRecorder, _Sample] = {}
        now = self._clock()
        for recorder in list(self.open):
            messages, last = recorder.messages, self._samples.get(recorder)
            if last is None:
                self._last_id += 1
                last = _Sample(self._last_id, messages, now if messages else recorder.started)
            elif last.messages != messages:
                last = _Sample(last.id, messages, now)
            samples[recorder] = last
        self._samples = samples

    async def watch(self) -> None:
        """Sample every five seconds, until cancelled."""
        while True:
            self.sample()
            await anyio.sleep(_SAMPLE_SECONDS)

    def _sampled(self) -> Iterator[tuple[OpenRecorder, _Sample, float]]:
        self.sample()
        now = self._clock()
        for recorder, sample in self._samples.items():
            yield recorder, sample, now


class _Sample(NamedTuple):
    """Messages of a request, and the time of the first sample with this number of them."""

    id: int
    messages: int
    at: float


def _idle(recorder: OpenRecorder, sample: _Sample, now: float) -> float:
    return 0.0 if recorder.may_be_idle else max(0.0, now - sample.at)
