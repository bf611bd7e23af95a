"""Requests to the admin API of the alert engine."""

from __future__ import annotations

from dataclasses import dataclass

from ...web.operation import ApiRequest
from ...web.operation import ApiResponse as AdminResponse
from ...web.operation import Operation as Operation
from ..engine import AlertEngine

__all__ = ["AdminRequest", "AdminResponse", "Operation"]


@dataclass(frozen=True, slots=True)
class AdminRequest(ApiRequest):
    """An authorized and validated request to an engine.

    Attributes:
        engine: The alert engine.
    """

    engine: AlertEngine
