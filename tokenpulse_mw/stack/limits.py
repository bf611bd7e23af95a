"""Limits, built from settings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ..config import Settings
from ..exchange import Providers
from ..ratelimit import (
    InFlight,
    KeyFunction,
    Limiter,
    Policy,
    StoredLimiter,
    check_policies,
    keys,
    reserve_from_request,
)
from ..ratelimit.limiters import CURRENCY, parse_rate
from ..ratelimit.zone import ZoneInFlight, ZoneLimiter
from ..ratelimit.zone.zone_limiter import zone_shape
from ..usage import Prices
from .origins import blame_settings, check_unused, warn_unused
from .shared_dir import SharedDir

logger = logging.getLogger("tokenpulse_mw")

FROM_SETTINGS: Any = "from settings"  # default of arguments for which None has a meaning

_OF_LIMIT = ("limit", "max_keys", "limit_strategy", "limit_storage", "limit_prefix")


def policies(
    settings: Settings,
    shared: SharedDir | None,
    given: Iterable[Policy] | None,
    limit: str | None,
) -> list[Policy]:
    """Return the given policies, or one limit for each client; none if there is no limit.

    Args:
        settings: Settings of the limiter.
        shared: Folder of the workers.
        given: The argument `policies`.
        limit: The argument `limit`; `FROM_SETTINGS` uses that of the settings.

    Raises:
        ValueError: The policies are invalid, or settings of the limit would have no effect.
    """
    if given is None:
        if limit is not FROM_SETTINGS:
            origins = {k: v for k, v in settings.origins.items() if k != "limit"}
            settings = settings.model_copy(update={"limit": limit, "origins": origins})
        is_off = settings.limit is None or settings.limit in ("off", "none")
        return [] if is_off else [_per_client(settings, shared, str(settings.limit))]
    if limit is not FROM_SETTINGS:
        raise ValueError(f"give limit or policies, not both: got limit={limit!r}")
    found = _checked("policies", given)
    names = (*_OF_LIMIT, "limit_on_error")
    check_unused(settings, names, "policies", "give it to a Policy or its limiter")
    return found


def inner_policies(given: Iterable[Policy], outer: Sequence[Policy]) -> list[Policy]:
    """Return the inner policies.

    Raises:
        ValueError: The policies are invalid, or one has the name of an outer policy.
    """
    found = _checked("inner_policies", given)
    names = {policy.name for policy in outer}
    for policy in found:
        if policy.name in names:
            raise ValueError(
                "inner_policies must have other names than the outer policies, got "
                f"{policy.name!r}: give it one, such as Policy(..., name='tenant')"
            )
    return found


def _checked(name: str, given: Iterable[Policy]) -> list[Policy]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{name} must be a list of Policy, got {given!r}")
    found = list(given)
    if found:
        check_policies(found)
    return found


def client_key(settings: Settings) -> KeyFunction:
    """Return the key of policies without one: the client's address, as the settings define it.

    Raises:
        ValueError: The trusted proxies or the client header are malformed.
    """
    with blame_settings(settings, {"trusted": "trusted_proxies", "header name": "client_header"}):
        return keys.client_address(trusted=settings.trusted_proxies, header=settings.client_header)


def _per_client(settings: Settings, shared: SharedDir | None, limit: str) -> Policy:
    if settings.limit_storage is None:
        warn_unused(settings, ["limit_prefix", "limit_on_error"], "limit_storage is not set")
    with blame_settings(settings, {"limit": "limit"}):
        Limiter(limit)  # its errors are those of this setting, and not of the storage
    return Policy(create_limiter(settings, shared, limit))


def create_limiter(
    settings: Settings,
    shared: SharedDir | None,
    limit: str,
    name: str = "",
    timezone: str | None = None,
) -> Limiter | StoredLimiter:
    """Return a limiter of the settings; limits with different names have counters of their own.

    Limits of money and of the calendar have fixed windows, even if the settings have another
    strategy.

    Raises:
        ValueError: `limit` is not a rate, or the storage or the folder cannot have it.
    """
    max_keys, strategy = settings.max_keys, settings.limit_strategy
    rate = parse_rate(limit)
    if rate.currency is not None or rate.period is not None:
        strategy = "fixed-window"
    local = Limiter(  # also validates `limit`
        limit, max_keys=max_keys, strategy=strategy, timezone=timezone
    )
    if settings.limit_storage is None:
        return local if shared is None else _in_zone(shared, local, limit, name, strategy, settings)
    from ..ratelimit.shared import SharedLimiter  # imports the drivers

    names = {"storage": "limit_storage", "prefix": "limit_prefix", "strategy": "limit_strategy"}
    with blame_settings(settings, names):
        return SharedLimiter(
            limit,
            storage=settings.limit_storage,
            strategy=strategy,
            prefix=f"{settings.limit_prefix}:{name}" if name else settings.limit_prefix,
            on_error=settings.limit_on_error,
            max_keys=max_keys,
            timezone=timezone,
        )


def _in_zone(
    shared: SharedDir, local: Limiter, limit: str, name: str, strategy: str, settings: Settings
) -> Limiter:
    """Return a limiter in the folder of the workers, or `local` if its strategy cannot be there."""
    name = name or "default"
    if strategy == "sliding-window-counter":
        logger.warning(
            "policy counts in each process alone: policy=%s; to share it, set %s to fixed-window "
            "or gcra, or use limit_storage",
            name,
            settings.origins["limit_strategy"],
        )
        return local
    path = shared.limit(name, str(zone_shape(local, strategy)))
    with blame_settings(settings, {"shared_dir": "shared_dir"}):
        return ZoneLimiter(
            limit,
            path=path,
            max_keys=local.max_keys,
            strategy=strategy,
            timezone=local.timezone,
        )


def reserve_from_prices(
    policies: Iterable[Policy], prices: Prices | None, providers: Providers
) -> None:
    """Let limits of money without a reserve estimate it from the request and the prices."""
    if prices is None:
        return
    for policy in policies:
        if policy.unit == CURRENCY and not policy.has_reserve:
            policy.reserve_by(reserve_from_request(prices, providers=providers))


def warn_of_missing_prices(policies: Iterable[Policy], prices: Prices | None) -> None:
    """Log a warning that names the limits of money that cannot count without prices."""
    names = [policy.name for policy in policies if policy.unit == CURRENCY]
    if prices is None and names:
        logger.warning(
            "no prices: policies that count USD (%s) charge the reserve for each response that "
            "does not report its cost; give prices= to TokenPulse, or pip install "
            "'tokenpulse-mw[cost]'",
            ", ".join(names),
        )


def is_local(policy: Policy) -> bool:
    """Return True if a policy counts in this process alone."""
    limiter = policy.limiter
    return isinstance(limiter, Limiter | InFlight) and not isinstance(
        limiter, ZoneLimiter | ZoneInFlight
    )


def warn_of_local(settings: Settings, shared: SharedDir | None, policies: Iterable[Policy]) -> None:
    """Log a warning for each policy that does not count where the settings say."""
    if settings.limit_storage is None and shared is None:
        return
    for policy in policies:
        if not is_local(policy):
            continue
        if settings.limit_storage is not None:
            kind = "SharedInFlight" if policy.holds_slots else "SharedLimiter"
            fix = f"give it a {kind} with the storage of {settings.origins['limit_storage']}"
        elif policy.plans is not None:
            fix = "use a rate that is not a function of the key"
        else:
            kind = "ZoneInFlight" if policy.holds_slots else "ZoneLimiter"
            fix = f"give it a {kind} with a path in the folder of {settings.origins['shared_dir']}"
        logger.warning(
            "policy counts in each process alone: policy=%s; to share it, %s", policy.name, fix
        )
