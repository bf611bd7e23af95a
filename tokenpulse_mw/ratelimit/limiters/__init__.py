"""Limiters of this process, and interfaces of those in a storage, independent of HTTP."""

from .blocked import BLOCKED_RETRY_SECONDS, blocked_decision
from .calendar import CalendarClock
from .decision import EPSILON, Decision
from .fixed_window import Window
from .in_flight import MAX_SLOTS, InFlight, slots_decision
from .limiter import Limiter
from .money import (
    CENT,
    CURRENCY,
    MAX_MICROS,
    MICROS,
    format_money,
    from_dollars,
    from_nanos,
    parse_money,
)
from .plans import PlanLimiter, RateOf, RateTable
from .rate import Changes, Rate, check_amount, parse_change, parse_rate, window_text
from .saved import SavedWindow
from .stored import StoredInFlight, StoredLimiter

__all__ = [
    "BLOCKED_RETRY_SECONDS",
    "CENT",
    "CURRENCY",
    "EPSILON",
    "MAX_MICROS",
    "MAX_SLOTS",
    "MICROS",
    "CalendarClock",
    "Changes",
    "Decision",
    "InFlight",
    "Limiter",
    "PlanLimiter",
    "Rate",
    "RateOf",
    "RateTable",
    "SavedWindow",
    "StoredInFlight",
    "StoredLimiter",
    "Window",
    "blocked_decision",
    "check_amount",
    "format_money",
    "from_dollars",
    "from_nanos",
    "parse_change",
    "parse_money",
    "parse_rate",
    "slots_decision",
    "window_text",
]
