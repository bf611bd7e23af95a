"""Cost of hostile bodies: time and memory per byte do not grow with the size of a body."""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest

from tokenpulse_mw.usage import UsageMeter, meter_for
from tokenpulse_mw.usage.bounds import MAX_FEED_MEMORY_BYTES

from ..support.calls import calls
from .hostile import KINDS, Kind

pytestmark = pytest.mark.slow

SMALL, LARGE = 128 * 1024, 2 * 1024 * 1024
FACTOR = 3.0  # tolerance for noise in the measured growth
MIN_SECONDS = 0.001  # of CPU; shorter times are rounded up
MAX_CALLS = 1_000_000  # of functions in one feed, including those written in C
ATTEMPTS = 4

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def meter_of(kind: Kind) -> UsageMeter:
    """Return a new meter for bodies of this kind."""
    meter = meter_for(kind.content_type, kind.encoding)
    assert meter is not None
    return meter


def seconds(kind: Kind, chunks: list[bytes], *, runs: int) -> float:
    """Return the least CPU time in which a body of these chunks is read."""
    best = float("inf")
    gc.collect()
    gc.disable()
    try:
        for _ in range(runs):
            meter = meter_of(kind)
            start = time.thread_time()
            for chunk in chunks:
                meter.feed(chunk)
            meter.finish(complete=True)
            best = min(best, time.thread_time() - start)
    finally:
        gc.enable()
    return best


def peak(kind: Kind, chunks: list[bytes]) -> int:
    """Return the maximum memory that is held in addition to the chunks while they are read."""
    meter = meter_of(kind)
    tracemalloc.start()
    try:
        for chunk in chunks:
            meter.feed(chunk)
        meter.finish(complete=True)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@every_kind
def test_time_per_byte_does_not_grow_with_the_body(kind: Kind) -> None:
    """Sixteen times the bytes take at most sixteen times the CPU time, give or take noise."""
    small, large = kind.chunks(SMALL), kind.chunks(LARGE)
    ratio = sum(map(len, large)) / sum(map(len, small))
    growth = []

    for _ in range(ATTEMPTS):
        expected = max(seconds(kind, small, runs=3), MIN_SECONDS) * ratio
        growth.append(seconds(kind, large, runs=2) / expected)
        if growth[-1] <= FACTOR:
            return

    pytest.fail(f"the time per byte grew to {min(growth):.1f} times as much")


@every_kind
def test_peak_memory_is_bounded_by_the_chunk_and_a_constant(kind: Kind) -> None:
    """The memory held while a chunk is read is twice its bytes and a constant at most."""
    for size in (SMALL, LARGE):
        chunks = kind.chunks(size)
        assert peak(kind, chunks) <= 2 * max(map(len, chunks)) + MAX_FEED_MEMORY_BYTES


@every_kind
def test_function_calls_of_one_feed_are_bounded(kind: Kind) -> None:
    """However large a chunk is, reading it ends after so many calls."""
    meter, chunk = meter_of(kind), max(kind.chunks(LARGE), key=len)

    assert calls(lambda: meter.feed(chunk)) <= MAX_CALLS
    assert calls(lambda: meter.finish(complete=True)) <= MAX_CALLS
