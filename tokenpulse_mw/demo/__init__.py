"""The whole thing on one machine: a vendor, the gateway in front of it, and clients.

It uses the library as any gateway does, by its public names.
"""

from .main import run_demo
from .server import PortError

__all__ = ["PortError", "run_demo"]
