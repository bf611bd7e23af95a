"""Live page of a gateway: alerts, rates and requests in progress, for people on call."""

from .dashboard import Dashboard
from .facts import EngineFacts, Facts, Sources, StoreFacts, Streak
from .sampler import Sampler

__all__ = ["Dashboard", "EngineFacts", "Facts", "Sampler", "Sources", "StoreFacts", "Streak"]
