"""Default parts, built from settings."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from ..alerts import AlertEngine, alert_routes, default_rules, quota_exceeded
from ..alerts.store import SQLAlertStore
from ..config import PREFIX, Settings
from ..health import CheckResult, Observation
from ..logs import ACCESS_LOGGER, check_level, configure_logging, formatter_for, settings_routes
from ..ratelimit import (
    RESPONSES,
    KeyFunction,
    Limiter,
    Policy,
    SharedLimiter,
    budgets,
    check_policies,
    keys,
)
from ..secret import hide
from ..web.auth import bearer

logger = logging.getLogger("tokenpulse_mw")


_OF_LIMIT = ("limit", "max_keys", "limit_strategy", "limit_storage", "limit_prefix")


_OF_ENGINE = ("alert_interval", "alert_store")


_SHORT = 16  # characters; a shorter token can be guessed


def policies(settings: Settings, given: Iterable[Policy] | None) -> list[Policy]:
    """Return the given policies, or one limit for each client from the settings.

    Raises:
        ValueError: The policies are invalid, or settings of the limit would have no effect.
    """
    if given is None:
        with blame_settings(*_OF_LIMIT):
            found = [_per_client(settings)]
    else:
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ValueError(f"policies must be a list of Policy, got {given!r}")
        found = list(given)
        names = (*_OF_LIMIT, "limit_on_error")
        check_unused(settings, names, "policies", "give it to a Policy or its limiter")
    check_policies(found)
    return found


def client_key(settings: Settings) -> KeyFunction:
    """Return the key of policies without one: the client's address, as the settings define it.

    Raises:
        ValueError: The trusted proxies or the client header are malformed.
    """
    with blame_settings("trusted_proxies", "client_header"):
        return keys.client_address(trusted=settings.trusted_proxies, header=settings.client_header)


def _per_client(settings: Settings) -> Policy:
    limit, strategy = settings.limit, settings.limit_strategy
    limiter: Limiter | SharedLimiter
    if settings.limit_storage is None:
        limiter = Limiter(limit, max_keys=settings.max_keys, strategy=strategy)
    else:
        limiter = SharedLimiter(
            limit,
            storage=settings.limit_storage,
            strategy=strategy,
            prefix=settings.limit_prefix,
            on_error=settings.limit_on_error,
            max_keys=settings.max_keys,
        )
    return Policy(limiter)


def response_for(name: str) -> Callable[[Any], ASGIApp]:
    """Return the factory of 429 responses with this name.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in RESPONSES:
        raise ValueError(f"limit_response must be one of {list(RESPONSES)}, got {name!r}")
    return RESPONSES[name]


def engine(
    settings: Settings, policies: Iterable[Policy], given: AlertEngine | None
) -> AlertEngine:
    """Return the given engine, or one with the default rules and the settings.

    Raises:
        ValueError: `given` is not an engine, or settings of alerts would have no effect.
    """
    if given is not None:
        if not isinstance(given, AlertEngine):
            raise ValueError(
                "engine must be an AlertEngine, such as AlertEngine(), "
                f"got one of type {type(given).__name__}"
            )
        check_unused(settings, _OF_ENGINE, "an engine", "give it to the engine")
        return given
    rules, used = default_rules(), budgets(policies)
    if used is not None:
        rules.append(quota_exceeded(used))
    with blame_settings(*_OF_ENGINE):
        store = None if settings.alert_store is None else SQLAlertStore(settings.alert_store)
        return AlertEngine(rules, interval=settings.alert_interval, store=store)


def admin_guard(settings: Settings) -> Callable[[Request], bool] | None:
    """Return the check of the admin token, or None if no token is set."""
    if settings.admin_token is None:
        return None
    with blame_settings("admin_token"):
        authorize = bearer(settings.admin_token)
    length = len(hide(settings.admin_token).reveal())
    if length < _SHORT:
        logger.warning(
            "admin_token has %d characters and can be guessed: use at least %d",
            length,
            _SHORT,
        )
    return authorize


def metrics_guard(settings: Settings) -> Callable[[Request], bool] | None:
    """Return the check of the metrics token, or None if the metrics are public."""
    with blame_settings("metrics_token"):
        return None if settings.metrics_token is None else bearer(settings.metrics_token)


def admin_routes(engine: AlertEngine, authorize: Callable[[Request], bool] | None) -> list[Route]:
    """Return the routes of the admin API; none if no admin token is set."""
    if authorize is None:
        return []
    return [*alert_routes(engine, authorize=authorize), *settings_routes(authorize=authorize)]


class AlertedProviders:
    """Health of the providers from the firing alerts, so that health and alerts agree."""

    def __init__(self, engine: AlertEngine) -> None:
        self._engine = engine

    def report(self) -> dict[str, Observation]:
        """Return a warning for each credential and provider that is down."""
        at = time.time()
        return {
            f"{finding.subject.name or finding.subject.id}:consecutiveFailures": Observation(
                CheckResult(
                    status="warn",
                    observed_value=finding.value,
                    observed_unit="failures",
                    output=finding.title,
                ),
                at,
                "component",
            )
            for finding in self._engine.firing
            if finding.type == "provider_down"
        }


_DEFAULTS = Settings()


@contextmanager
def blame_settings(*names: str) -> Iterator[None]:
    """Add the names of these settings to a `ValueError` of the body."""
    try:
        yield
    except ValueError as error:
        variables = ", ".join(f"{PREFIX}{name.upper()}" for name in names)
        raise ValueError(f"{error} (set by {', '.join(names)}; {variables})") from error


def check_unused(settings: Settings, names: Sequence[str], by: str, instead: str) -> None:
    """Reject settings that have no effect.

    Args:
        settings: Settings of the operator.
        names: Names of settings that must have their defaults.
        by: The argument that replaces them.
        instead: How to set them instead.

    Raises:
        ValueError: One of them differs from its default.
    """
    for name in names:
        if getattr(settings, name) != getattr(_DEFAULTS, name):
            raise ValueError(
                f"{name} ({PREFIX}{name.upper()}) has no effect if TokenPulse is given {by}: "
                f"leave it out, or {instead}"
            )


def check_logs(settings: Settings) -> None:
    """Check the log level and format before the server starts.

    Raises:
        ValueError: One of them is unknown.
    """
    if settings.log_level is not None:
        with blame_settings("log_level"):
            check_level(settings.log_level)
    if settings.log_format is not None:
        with blame_settings("log_format"):
            formatter_for(settings.log_format)


def configure_logs(settings: Settings) -> None:
    """Configure logging from the settings; warn if the access log would not be written."""
    if settings.log_level is not None or settings.log_format is not None:
        configure_logging(
            settings.log_level or "INFO",
            settings.log_format or "text",
            capture=["uvicorn"],  # the lines of the server get the same format
            request_id=settings.access_log,
        )
    access = logging.getLogger(ACCESS_LOGGER)
    if settings.access_log and not access.isEnabledFor(logging.INFO):
        access.warning(
            "access log not written, because the log level is above INFO: call "
            "configure_logging(), or set TOKENPULSE_LOG_LEVEL=INFO"
        )
