"""Protocol of a fleet: one logical engine in all processes that share a store."""

from .backlog import Backlog
from .clock import FleetClock
from .inbox import Inbox, watermark
from .lease import Lease

__all__ = ["Backlog", "FleetClock", "Inbox", "Lease", "watermark"]
