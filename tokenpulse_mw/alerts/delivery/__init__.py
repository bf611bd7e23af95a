"""Delivery of what is told, off the rounds of the engine."""

from .outbox import Outbox, names_of
from .sink_worker import DeliveryContext

__all__ = ["DeliveryContext", "Outbox", "names_of"]
