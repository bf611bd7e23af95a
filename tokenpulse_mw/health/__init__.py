"""Whether the service lives, is ready, drains, and has working credentials."""

from .check import AnyCheck, Check, CheckFunction
from .checks import Checks
from .credentials import Credentials
from .drain import drain_on_sigterm
from .lag import EventLoopLag
from .providers import ProviderHealth, ReportsProviders
from .results import CheckResult, Observed
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
    "Observed",
    "ProviderHealth",
    "ReportsProviders",
    "drain_on_sigterm",
]
