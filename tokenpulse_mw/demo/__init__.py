"""The whole thing on one machine: a vendor, the gateway in front of it, and clients."""

from .main import run_demo

__all__ = ["run_demo"]
