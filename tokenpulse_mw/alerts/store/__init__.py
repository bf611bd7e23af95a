"""Stores of alerts, silences, thresholds and undelivered notifications."""

from .memory import MemoryAlertStore
from .protocol import (
    AlertStore,
    BadRecord,
    Changes,
    Conflict,
    EngineState,
    Page,
    StoreError,
    UnknownAlert,
)
from .records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Matcher,
    Notification,
    Silence,
    ThresholdsVersion,
    TransitionRecord,
)
from .sql.store import SQLAlertStore

__all__ = [
    "Ack",
    "AlertRecord",
    "AlertStore",
    "BadRecord",
    "Changes",
    "Conflict",
    "DeadLetter",
    "EngineState",
    "Matcher",
    "MemoryAlertStore",
    "Notification",
    "Page",
    "SQLAlertStore",
    "Silence",
    "StoreError",
    "ThresholdsVersion",
    "TransitionRecord",
    "UnknownAlert",
]
