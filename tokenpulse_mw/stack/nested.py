"""Middleware that measures the requests of one TokenPulse, and detects a second one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Scope

from ..exchange import (
    ExchangeMiddleware,
    Observer,
    ObserverLike,
    Providers,
    RequestsInProgress,
    UpstreamQuotas,
    recorder_of,
)
from ..ratelimit import Policy, RateLimited
from ..usage import Prices

logger = logging.getLogger("tokenpulse_mw")

_MAX_PATH_CHARS = 100  # in the log


@dataclass(frozen=True, eq=False)
class Gateway(Observer):
    """The TokenPulse that an exchange belongs to; an observer without hooks.

    Attributes:
        alerts: Whether it evaluates alerts.
        policies: Its limits.
    """

    alerts: bool
    policies: Sequence[Policy]

    def overlap(self, other: Gateway) -> str | None:
        """Return what both do to the same request indistinguishably, or None."""
        names = {policy.name for policy in self.policies}
        for policy in other.policies:
            if policy.name in names:
                return f"limit it by policies named {policy.name!r}"
        return "evaluate alerts of it" if self.alerts and other.alerts else None


class GatewayExchangeMiddleware(ExchangeMiddleware):
    """`ExchangeMiddleware` of a TokenPulse.

    If a request passes two, because an application with a TokenPulse is mounted in or wrapped by
    another one, each registry and each alert engine counts it once. A warning is logged once if
    both limit it under the same name or alert on it.
    """

    rejections = (RateLimited,)  # by a middleware inside that calls `TokenPulse.check`

    def __init__(
        self,
        app: ASGIApp,
        *,
        gateway: Gateway,
        observers: Iterable[ObserverLike],
        provider: Providers,
        websocket_usage: bool = False,
        prices: Prices | None = None,
        in_progress: RequestsInProgress | None = None,
        quotas: UpstreamQuotas | None = None,
    ) -> None:
        super().__init__(
            app,
            observers=[gateway, *observers],
            provider=provider,
            request_model=True,
            websocket_usage=websocket_usage,
            prices=prices,
            in_progress=in_progress,
            quotas=quotas,
        )
        self._gateway = gateway
        self._warned = False

    def join(self, scope: Scope) -> bool:
        """Add the observers to the open exchange; return False without one."""
        if not self._warned:
            self._inspect(scope)
        return super().join(scope)

    def _inspect(self, scope: Scope) -> None:
        recorder = recorder_of(scope)
        for observer in () if recorder is None else recorder.dispatcher.observers:
            if isinstance(observer, Gateway) and observer is not self._gateway:
                overlap = observer.overlap(self._gateway)
                if overlap:
                    self._warned = True
                    logger.warning(
                        "two TokenPulse handle the same request and both %s (seen on %s, logged "
                        "once): use one of them, or give their policies different names and the "
                        "inner one Settings(alerts=False)",
                        overlap,
                        ascii(scope["path"][:_MAX_PATH_CHARS]),
                    )
                return
