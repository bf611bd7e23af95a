"""The files of a monitoring stack around a gateway, and how they are written."""

from __future__ import annotations

from .write import write_files

__all__ = ["write_files"]
