"""Counts of recent traffic by subject, in bounded memory and bounded time."""

from .rolling_window import OVERFLOW, ErrorWindow, EvaluationCounter, Hot, RollingWindow
from .streaks import Outcomes, Streak, Streaks

__all__ = [
    "OVERFLOW",
    "ErrorWindow",
    "EvaluationCounter",
    "Hot",
    "Outcomes",
    "RollingWindow",
    "Streak",
    "Streaks",
]
