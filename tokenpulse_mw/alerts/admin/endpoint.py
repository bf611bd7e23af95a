"""Endpoint of the operations of an alert engine: the engine is current, and errors are reported."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ...exchange import drop_exchange
from ...web import endpoint
from ...web.auth import Guard
from ...web.operation import ApiRequest, ApiResponse, Operation
from ...web.problems import ProblemError
from ..engine import AlertEngine
from ..store import StoreError
from .operation import AdminRequest

logger = logging.getLogger("tokenpulse_mw.alerts")


class Endpoint(endpoint.Endpoint):
    """Operations of one path.

    Authorized requests of operators (`is_admin`) are excluded from request metrics and alerts.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        engine: AlertEngine,
        guard: Guard,
        is_admin: bool = True,
    ) -> None:
        on_authorized = drop_exchange if is_admin else None
        super().__init__(operations, guard=guard, on_authorized=on_authorized)
        self._engine = engine
        self._is_admin = is_admin

    async def call(self, operation: Operation, request: ApiRequest) -> ApiResponse:
        """Return the result of an operation on the current state of the store."""
        try:
            if self._is_admin:
                await self._engine.controls.refresh()
            return await operation.handle(
                AdminRequest(
                    request.http, request.caller, request.query, request.body, self._engine
                )
            )
        except StoreError as error:
            logger.error("alert store failed, admin request rejected: error=%s", error)
            raise ProblemError(
                503, "Service unavailable: the alert store failed; see the log."
            ) from None
