"""Whether the service lives, is ready, and has working credentials."""

from .checks import Check, run_checks
from .router import Credentials, HealthRouter

__all__ = ["Check", "Credentials", "HealthRouter", "run_checks"]
