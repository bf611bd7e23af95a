"""Whether the service lives, is ready, and has working credentials."""

from .checks import Check, Checks
from .router import Credentials, HealthRouter

__all__ = ["Check", "Checks", "Credentials", "HealthRouter"]
