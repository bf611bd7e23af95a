"""Limiters of this process, and interfaces of those in a storage, independent of HTTP."""

from .decision import EPSILON, Decision
from .fixed_window import Window
from .in_flight import MAX_SLOTS, InFlight, slots_decision
from .limiter import Limiter
from .plans import PlanLimiter, RateOf
from .rate import check_amount, parse_rate
from .stored import StoredInFlight, StoredLimiter

__all__ = [
    "EPSILON",
    "MAX_SLOTS",
    "Decision",
    "InFlight",
    "Limiter",
    "PlanLimiter",
    "RateOf",
    "StoredInFlight",
    "StoredLimiter",
    "Window",
    "check_amount",
    "parse_rate",
    "slots_decision",
]
