"""Fleet: one logical engine in all processes that share a store."""

from .leadership import Leadership
from .member import FleetMember
from .options import Fleet

__all__ = ["Fleet", "FleetMember", "Leadership"]
