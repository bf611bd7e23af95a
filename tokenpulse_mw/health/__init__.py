"""Whether the service lives, is ready, and has working credentials."""

from .checks import Check, Checks
from .router import CREDENTIALS_PATH, Credentials, HealthRouter

__all__ = ["CREDENTIALS_PATH", "Check", "Checks", "Credentials", "HealthRouter"]
