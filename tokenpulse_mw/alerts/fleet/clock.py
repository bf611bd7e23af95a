"""Time that all processes of a fleet share."""

from __future__ import annotations

from collections import deque
from math import floor

_STEP = 1.0  # seconds; smaller steps of the reference clock are not reported


class FleetClock:
    """Offset from the clock of a process to that of the store, which is the fleet's.

    Args:
        offset: Seconds to add to the process's clock until the first heartbeat.

    Attributes:
        offset: Seconds to add to the process's clock; it comes from the heartbeat with the
            shortest round trip of the last 8, and is wrong by at most half of that.
    """

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self._samples = deque[tuple[float, float]](maxlen=8)  # error, offset

    def heard(self, sent: float, received: float, now: float) -> float:
        """Follow a heartbeat and return the step of the store's clock since the one before.

        Args:
            sent: Time of the process's clock at which the heartbeat was sent.
            received: Time of the process's clock at which its response was received.
            now: Time of the store in between.

        Returns:
            Seconds, or 0 if it made no step of more than a second.
        """
        error, offset = (received - sent) / 2, now - (sent + received) / 2
        step = 0.0
        if self._samples and abs(offset - self.offset) > _STEP + error + min(self._samples)[0]:
            step = offset - self.offset
            self._samples.clear()
        self._samples.append((error, offset))
        self.offset = min(self._samples)[1]
        return step

    def schedule(self, now: float, *, bucket_seconds: float, jitter: float) -> float:
        """Return the time of the process's clock of the next heartbeat.

        Args:
            now: Time of the process's clock.
            bucket_seconds: Length of a slot; a heartbeat follows the end of each.
            jitter: Seconds after the end of the slot. A number below 1 that is random, but the
                same for all heartbeats of a process, spreads the load of the processes.
        """
        slot = floor((now + self.offset - jitter) / bucket_seconds) + 1
        return slot * bucket_seconds - self.offset + jitter
