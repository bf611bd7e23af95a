"""Delivery of what is told, off the rounds of the engine."""

from .lane import Desk
from .outbox import Outbox, names_of

__all__ = ["Desk", "Outbox", "names_of"]
