"""Leadership of a fleet, as one of its processes sees it."""

from __future__ import annotations

from math import inf

from ..store.protocol import FleetState, Leader, LeaseRequest


class Lease:
    """Decides from the heartbeats of a process when it leads the fleet.

    With each heartbeat, the leader changes the fleet's row in the store. Another process takes
    the lease after the row was unchanged for `duration` since that process received it. The leader
    stops `margin` earlier, counted from the time at which it sent its last renewal. So the clocks
    of the processes are never compared, and only their rates have to agree within the margin.

    All times are seconds of the process's monotonic clock. Call `request` before each heartbeat,
    and `observe` or `missed` after it.

    Args:
        process: Unique name of the process.
        protocol: Newest protocol that the process reads; processes with the newest one lead.
        duration: Seconds without a renewal after which another process takes the lease.
        margin: Seconds by which the leader stops earlier.
        leads: False if the process never leads.

    Attributes:
        closing: True if the process is about to end, so that it releases the lease.
        until: Time until which no other process can lead, if this one does.
    """

    def __init__(
        self,
        *,
        process: str,
        protocol: int,
        duration: float = 15.0,
        margin: float = 1.0,
        leads: bool = True,
    ) -> None:
        self.closing = False
        self._process, self._protocol, self._leads = process, protocol, leads
        self._duration, self._margin = duration, margin
        self._seen: FleetState | None = None
        self._heard = -inf
        self._unchanged_since = inf  # `inf`: unknown since a heartbeat failed
        self._epoch: int | None = None
        self.until = -inf
        self._releasing = False
        self._outdated = False
        self._writes = self._expected_writes = 0

    @property
    def leader(self) -> Leader | None:
        """This process's leadership; `holds` returns if it may act as the leader now."""
        return None if self._epoch is None else Leader(self._epoch, self._process)

    @property
    def next_attempt_at(self) -> float:
        """Time at which the process may take the lease; infinite if it leads or may not lead."""
        may_lead = self._leads and not self.closing and not self._outdated
        if self._epoch is not None or self._seen is None or not may_lead:
            return inf
        return self._unchanged_since + (0 if self._seen.holder is None else self._duration)

    def holds(self, now: float) -> bool:
        """Return True if no other process can lead yet."""
        return now < self.until

    def request(self, now: float) -> LeaseRequest | None:
        """Return the change of the lease that the next heartbeat requests.

        A request to release it ends the leadership at once, even if the heartbeat fails.
        """
        self._expected_writes = self._writes
        if self._epoch is not None:
            # A release that was sent may still take effect, so no renewal follows it.
            self._releasing = self._releasing or self.closing or self._outdated
            if self._releasing:
                self.until = -inf
            return LeaseRequest("release" if self._releasing else "renew", self._epoch)
        if self._seen is not None and now >= self.next_attempt_at:
            return LeaseRequest("take", self._seen.epoch, self._seen.beat)
        return None

    def observe(self, state: FleetState, *, asked: float, heard: float) -> bool:
        """Follow the outcome of a heartbeat.

        Args:
            state: Outcome of the heartbeat.
            asked: Time at which it was sent: a renewal lasts from here.
            heard: Time at which its response was received: the row is unchanged from here.

        Returns:
            True if the store has lost writes of a leader, such as by a failover to a replica. The
            process then leads only after it has taken the lease again.
        """
        seen, self._seen = self._seen, state
        is_renewed = state.granted and state.holder == self._process
        has_lost = is_later = False
        if seen is not None:
            least = seen.beat + self._expected_writes + is_renewed
            has_lost = (state.epoch, state.beat) < (seen.epoch, least)
            is_later = state.epoch > seen.epoch
        if seen is None or has_lost or self._unchanged_since == inf or _row(state) != _row(seen):
            self._unchanged_since = heard
        self._heard, self._writes = heard, 0
        self._outdated = any(
            member.process.leads and member.process.protocol > self._protocol
            for member in state.members
            if state.now - member.seen_at <= self._duration
        )
        if has_lost or state.holder != self._process:
            self.lose()
        elif is_later:  # the response to the request that took the lease may have been lost
            self._epoch, self.until, self._releasing = state.epoch, -inf, False
        if is_renewed:
            self._extend(asked)
        return has_lost

    def missed(self) -> None:
        """Follow a heartbeat that failed, which may have had an effect."""
        self._unchanged_since = inf

    def renewed(self, asked: float) -> None:
        """Follow a fenced call that succeeded and was sent at `asked`."""
        self._extend(asked)
        self._writes += asked > self._heard

    def lose(self) -> None:
        """End the leadership, such as after a call raised `Fenced`."""
        self._epoch, self.until, self._releasing = None, -inf, False

    def _extend(self, asked: float) -> None:
        if self._epoch is not None and not self._releasing:
            self.until = max(self.until, asked + self._duration - self._margin)


def _row(state: FleetState) -> tuple[int, int, str | None]:
    return state.epoch, state.beat, state.holder
