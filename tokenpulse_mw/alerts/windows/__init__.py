"""What is remembered of the recent past for each subject, in bounded memory and bounded time."""

from .ring import OVERFLOW, ErrorRing, Hot, Ring
from .streaks import Streak, Streaks
from .tally import Tally

__all__ = ["OVERFLOW", "ErrorRing", "Hot", "Ring", "Streak", "Streaks", "Tally"]
