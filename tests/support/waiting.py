"""Waiting for conditions, and limits of CPU time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 60.0  # seconds that a test waits for an event; reached only on failure


def wait_until(holds: Callable[[], bool], failure: str = "the condition was not met") -> None:
    """Wait until `holds` returns True; after `PATIENCE` seconds fail with the message `failure`."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, failure
        time.sleep(0.005)


@contextmanager
def max_cpu_time(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` if this process uses more than `seconds` of CPU time.

    A running match of a regular expression is interrupted, too. Works in the main thread only.
    """

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s of CPU time used")

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
