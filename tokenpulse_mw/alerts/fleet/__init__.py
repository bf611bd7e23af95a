"""Fleet: one logical engine in all processes that share a store."""

from .coordinator import STORE_SECONDS, Coordinator
from .member import FleetMember
from .options import Fleet

__all__ = ["STORE_SECONDS", "Coordinator", "Fleet", "FleetMember"]
