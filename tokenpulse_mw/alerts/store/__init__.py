"""What an alert engine knows beyond the life of its process: alerts, silences, thresholds, mail."""

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
from .sql_store import SQLAlertStore

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
