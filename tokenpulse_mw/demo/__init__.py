"""Demo on one machine: a simulated vendor, a gateway in front of it, and clients.

It uses only public names of the library.
"""

from .main import run_demo
from .server import PortError

__all__ = ["PortError", "run_demo"]
