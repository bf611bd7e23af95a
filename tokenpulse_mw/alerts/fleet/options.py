"""Options of a fleet."""

from __future__ import annotations

from dataclasses import dataclass

from ...validation import check_integer, check_seconds

_MAX_HEARTBEAT = 60
_HEARTBEATS_PER_LEASE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Options of a fleet, which are all engines that share a store.

    Attributes:
        heartbeat: Seconds between two heartbeats of a process, each with its traffic since the
            last one; the same in all processes.
        lease: Seconds without a sign of the leader after which another process takes over.
        alone_after: Seconds without a response of the store after which the last leader continues
            without it; None: never. Then two processes may report one alert, if only this one
            cannot reach the store. A process that has seen no other continues at once.
        leads: False if this process must never lead, such as one that cannot reach the sinks.

    Raises:
        ValueError: A value is invalid.
    """

    heartbeat: int = 5
    lease: float = 15
    alone_after: float | None = 120
    leads: bool = True

    def __post_init__(self) -> None:
        check_integer("heartbeat", self.heartbeat, maximum=_MAX_HEARTBEAT)
        check_seconds("lease", self.lease)
        if self.lease < _HEARTBEATS_PER_LEASE * self.heartbeat:
            raise ValueError(
                f"lease must be at least {_HEARTBEATS_PER_LEASE} heartbeats of {self.heartbeat} s, "
                f"got {self.lease:g} s"
            )
        if self.alone_after is not None:
            check_seconds("alone_after", self.alone_after, zero=True)
