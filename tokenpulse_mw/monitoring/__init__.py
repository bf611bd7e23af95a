"""Configuration files of a monitoring stack for a gateway."""

from __future__ import annotations

from .write import write_files

__all__ = ["write_files"]
