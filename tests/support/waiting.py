"""How long tests wait for what must come, and how they stop what must not take long."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A test waits this long for what must come: only what is broken takes as long.
PATIENCE = 60.0  # seconds


def wait_until(holds: Callable[[], bool], what: str = "it does not come") -> None:
    """Ask again and again, but not for ever; `what` says what is wrong when it never holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` where this process computes for longer: no stall of the machine counts.

    A match of a regular expression that is under way is stopped, too. For the main thread only.
    """

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s of the processor")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
