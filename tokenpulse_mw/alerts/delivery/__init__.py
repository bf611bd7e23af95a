"""Delivery of notifications to sinks, outside of the evaluations."""

from .outbox import Outbox, names_of
from .sink_worker import DeliveryContext

__all__ = ["DeliveryContext", "Outbox", "names_of"]
