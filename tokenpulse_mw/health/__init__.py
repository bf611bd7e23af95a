"""Health endpoints, readiness checks, draining and the status of credentials."""

from .checks import AnyCheck, Check, CheckFunction, Checks
from .credentials import Credentials
from .drain import drain_on_sigterm
from .event_loop_lag import EventLoopLag
from .providers import ProviderHealth, ReportsProviders
from .results import CheckResult, Observation
from .router import CREDENTIALS_PATH, HealthRouter

__all__ = [
    "CREDENTIALS_PATH",
    "AnyCheck",
    "Check",
    "CheckFunction",
    "CheckResult",
    "Checks",
    "Credentials",
    "EventLoopLag",
    "HealthRouter",
    "Observation",
    "ProviderHealth",
    "ReportsProviders",
    "drain_on_sigterm",
]
