"""Default parts, built from settings."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.routing import BaseRoute
from starlette.types import Scope

from ..alerts import (
    AlertEngine,
    AlertmanagerSink,
    Finding,
    Fleet,
    LogSink,
    Sink,
    SlackSink,
    Thresholds,
    UsageSink,
    UsageWebhook,
    WebhookSink,
    budget,
    default_rules,
    quota_exceeded,
)
from ..alerts.engine import check_sinks
from ..alerts.store import MemoryAlertStore, SQLAlertStore
from ..config import Settings
from ..exchange import Models
from ..health import CheckResult, Observation
from ..logs import (
    ACCESS_LOGGER,
    add_last_resort,
    configure_logging,
    settings_routes,
)
from ..metrics import HttpMetrics
from ..metrics.multiprocess import folder_variable
from ..ratelimit import (
    BlockedKeys,
    Limiter,
    Policy,
    Rejections,
    budgets,
    limit_routes,
    quotas,
)
from ..secret import hide
from ..usage import Prices, PriceTable
from ..web.auth import Authorize, TenantOf, bearer
from ..web.guesses import GuessLimit
from .limits import is_local
from .log_level import SharedLogLevel
from .origins import blame_settings, check_unused, warn_unused
from .shared_blocks import SharedBlocks
from .shared_dir import SharedDir, check_folder
from .shared_limits import SharedLimits

logger = logging.getLogger("tokenpulse_mw")


_OF_ENGINE = (
    "alert_interval",
    "alert_cooldown",
    "alert_runbook_url",
    "alert_store",
    "alert_leads",
    "alert_alone_after",
)
_OF_MODELS = ("models", "model_aliases")
_OF_SINKS = (
    "alert_slack_url",
    "alert_webhook_url",
    "alert_webhook_secret",
    "usage_webhook_url",
    "usage_webhook_secret",
    "alert_alertmanager_url",
)
_SERVERS = ("uvicorn", "hypercorn", "gunicorn", "granian", "_granian")  # their loggers
_MIN_TOKEN_CHARS = 16  # a shorter token can be guessed
_GUESSES = "10/minute"  # wrong tokens of a client
_MAX_GUESSING_CLIENTS = 1000


def shared_dir(settings: Settings) -> SharedDir | None:
    """Return the folder of the workers, which is created if it is missing; None if not set.

    Raises:
        ValueError: The folder is not safe or not usable.
    """
    if settings.shared_dir is None:
        return None
    with blame_settings(settings, {"shared_dir": "shared_dir"}):
        return SharedDir(settings.shared_dir)


@contextmanager
def only_checking(settings: Settings) -> Iterator[Settings]:
    """Yield settings with a temporary folder of workers; the real one is checked and not created.

    Otherwise it could belong to another user than the gateway's.

    Raises:
        ValueError: The folder is not safe or not usable.
    """
    with TemporaryDirectory() as folder:
        if settings.shared_dir is not None:
            with blame_settings(settings, {"shared_dir": "shared_dir"}):
                check_folder(settings.shared_dir)
            settings = settings.model_copy(update={"shared_dir": folder})
        yield settings


def metrics(
    settings: Settings,
    shared: SharedDir | None,
    given: HttpMetrics | None,
    models: Models | None,
) -> HttpMetrics:
    """Return the given metrics, or metrics with a registry of their own.

    Raises:
        ValueError: `given` are not metrics, the models are invalid or would have no effect, or the
            folder of the workers is not usable.
    """
    if given is None:
        folder = None if shared is None else shared.metrics
        return HttpMetrics(registry(), folder=folder, models=_models(settings, models))
    if not isinstance(given, HttpMetrics):
        raise ValueError(f"metrics must be an HttpMetrics of a registry, got {given!r}")
    if models is not None:
        raise ValueError("give models to the HttpMetrics, or leave metrics out")
    check_unused(settings, _OF_MODELS, "metrics", "give it to the HttpMetrics")
    if shared is not None and not given.is_shared:
        logger.warning(
            "metrics count in each process alone: to share those that TokenPulse is given, set "
            "PROMETHEUS_MULTIPROC_DIR, or create them with HttpMetrics(folder=%r)",
            str(shared.metrics),
        )
    return given


def _models(settings: Settings, given: Models | None) -> Models:
    """Return the given models, or those of the settings."""
    if given is not None:
        check_unused(settings, _OF_MODELS, "models", "give it to the Models")
        return given
    aliases = {}
    for item in settings.model_aliases:
        alias, equals, label = item.partition("=")
        if not equals:
            raise ValueError(
                f'{settings.origins["model_aliases"]} must be a list of "alias=model", got {item!r}'
            )
        aliases[alias.strip()] = label.strip()
    names = {"model": "models", "model alias": "model_aliases"}
    with blame_settings(settings, names):
        return Models(settings.models, aliases=aliases)


def unshared(
    settings: Settings, policies: Iterable[Policy], engine: AlertEngine, metrics: HttpMetrics
) -> list[str]:
    """Return what follows from the state that several workers would not share; [] if it is meant.

    A setting that shares a part logs its exceptions when they are created.
    """
    if settings.shared_dir is not None:
        return []
    effects = []
    if settings.limit_storage is None and any(map(is_local, policies)):
        effects.append("each limit is up to {workers} times as high")
    if settings.alerts and isinstance(engine.store, MemoryAlertStore):
        effects.append("each worker sends alerts of its own, and has its own thresholds")
    if not metrics.is_shared:
        effects.append("a scrape returns the metrics of one worker")
    return effects


def engine(
    settings: Settings,
    shared: SharedDir | None,
    policies: Iterable[Policy],
    given: AlertEngine | None,
    *,
    thresholds: Thresholds | None,
    sinks: Iterable[Sink] | None,
    models: Models,
) -> AlertEngine:
    """Return the given engine, or one with all rules and the settings.

    Raises:
        ValueError: `given` is not an engine, or arguments or settings of alerts would have no
            effect.
    """
    if given is not None:
        if not isinstance(given, AlertEngine):
            raise ValueError(
                "engine must be an AlertEngine, such as AlertEngine(), "
                f"got one of type {type(given).__name__}"
            )
        for name, argument in {"thresholds": thresholds, "sinks": sinks}.items():
            if argument is not None:
                raise ValueError(f"give {name} to the AlertEngine, or leave engine out")
        check_unused(settings, (*_OF_ENGINE, *_OF_SINKS), "an engine", "give it to the engine")
        if shared is not None and isinstance(given.store, MemoryAlertStore):
            logger.warning(
                "alerts are evaluated by each process alone: to share them, give the AlertEngine "
                "store=SQLAlertStore(%r)",
                shared.alerts,
            )
        return given
    rules = default_rules()
    rules.append(quota_exceeded(quotas(policies), per_process=True))
    rules.append(budget(budgets(policies), per_process=True))
    store, fleet, url = None, Fleet(), settings.alert_store
    if url is None and shared is not None and settings.alerts:
        url = shared.alerts
    if url is None:
        warn_unused(settings, ["alert_leads", "alert_alone_after"], "alert_store is not set")
    else:
        fleet = Fleet(leads=settings.alert_leads, alone_after=settings.alert_alone_after)
        name = "alert_store" if settings.alert_store is not None else "shared_dir"
        with blame_settings(settings, {"url": name}):
            store = SQLAlertStore(url)
    return AlertEngine(
        rules,
        [*_sinks(sinks), *_sinks_of(settings)],
        thresholds=thresholds,
        interval=settings.alert_interval,
        cooldown=settings.alert_cooldown,
        store=store,
        fleet=fleet,
        models=models,
        runbook_url=settings.alert_runbook_url,
        usage_sink=_usage_sink(settings),
    )


def _sinks(given: Iterable[Sink] | None) -> list[Sink]:
    """Return the given sinks, after the log if it is not among them."""
    sinks = check_sinks(given)
    logs = [] if any(isinstance(sink, LogSink) for sink in sinks) else [LogSink()]
    return [*logs, *sinks]


def _sinks_of(settings: Settings) -> Iterator[Sink]:
    """Yield the sinks of the settings."""
    if settings.alert_slack_url is not None:
        with blame_settings(settings, {"url": "alert_slack_url"}):
            yield SlackSink(hide(settings.alert_slack_url).reveal())
    if settings.alert_webhook_url is not None:
        secret = settings.alert_webhook_secret
        with blame_settings(
            settings, {"url": "alert_webhook_url", "secret": "alert_webhook_secret"}
        ):
            yield WebhookSink(
                hide(settings.alert_webhook_url).reveal(),
                secret=None if secret is None else hide(secret).reveal(),
            )
    else:
        warn_unused(settings, ["alert_webhook_secret"], "alert_webhook_url is not set")
    if settings.alert_alertmanager_url is not None:
        urls = hide(settings.alert_alertmanager_url).reveal().split(",")
        with blame_settings(settings, {"url": "alert_alertmanager_url"}):
            yield AlertmanagerSink([url.strip() for url in urls])


def _usage_sink(settings: Settings) -> UsageSink | None:
    """Return the sink of the usage, or None."""
    if settings.usage_webhook_url is None:
        warn_unused(settings, ["usage_webhook_secret"], "usage_webhook_url is not set")
        return None
    secret = settings.usage_webhook_secret
    with blame_settings(settings, {"url": "usage_webhook_url", "secret": "usage_webhook_secret"}):
        return UsageWebhook(
            hide(settings.usage_webhook_url).reveal(),
            secret=None if secret is None else hide(secret).reveal(),
        )


def prices(settings: Settings, given: Prices | PriceTable | None) -> Prices | None:
    """Return the given prices, or those of a table and the price list of the settings.

    Raises:
        ValueError: The table is invalid, or the price list is not installed.
    """
    if isinstance(given, Prices):
        check_unused(settings, ["price_list"], "prices", "give it to the Prices")
        return given
    choice = None if settings.price_list == "off" else settings.price_list
    try:
        found = Prices(given, price_list=choice)
    except ImportError as error:
        raise ValueError(
            f"{settings.origins['price_list']} must name a price list that is installed, got "
            f"{settings.price_list!r}: {error}"
        ) from None
    return found or None


def warn_if_unused(
    settings: Settings, *, engine: AlertEngine | None, metrics: HttpMetrics | None
) -> None:
    """Log a warning if other settings, or arguments, replace the folder of the workers."""
    alerts = engine is not None or settings.alert_store is not None or not settings.alerts
    rows = metrics is not None or folder_variable() in os.environ
    if settings.limit_storage is not None and alerts and rows:
        warn_unused(settings, ["shared_dir"], "limits, metrics and alerts are elsewhere")


def registry() -> CollectorRegistry:
    """Return a new registry with the process, platform and GC collectors."""
    new = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=new)
    return new


def admin_guard(
    settings: Settings, given: Authorize | None, client_of: Callable[[Scope], Hashable]
) -> Authorize | None:
    """Return the check of operators, which limits wrong tokens; None without a token.

    Args:
        settings: Settings with the admin token.
        given: The argument `authorize`, which replaces the token.
        client_of: Returns the key of the client of a request.

    Raises:
        ValueError: `given` is not callable, or the token is set too.
    """
    if given is not None:
        if not callable(given):
            raise ValueError(
                "authorize must be a function of the request that returns True, a name, a Person "
                f"or False, got a value of type {type(given).__name__}"
            )
        check_unused(settings, ["admin_token"], "authorize", "leave authorize out")
        return _limited(given, client_of)
    if settings.admin_token is None:
        return None
    with blame_settings(settings, {"token": "admin_token"}):
        authorize = bearer(settings.admin_token)
    length = len(hide(settings.admin_token).reveal())
    if length < _MIN_TOKEN_CHARS:
        logger.warning(
            "%s has %d characters and can be guessed: use at least %d",
            settings.origins["admin_token"],
            length,
            _MIN_TOKEN_CHARS,
        )
    return _limited(authorize, client_of)


def handle_secret(settings: Settings, shared: SharedDir | None) -> bytes | None:
    """Return the secret of the handles of keys, which processes with the same settings share.

    None if no setting is secret: then the handles of each process differ.
    """
    for setting in (settings.admin_token, settings.limit_storage, settings.alert_store):
        if setting is not None:
            text = str(hide(setting).reveal())
            return blake2b(text.encode(), digest_size=32, person=b"tokenpulse keys").digest()
    return None if shared is None else shared.secret()


def metrics_guard(settings: Settings, client_of: Callable[[Scope], Hashable]) -> Authorize | None:
    """Return the check of the metrics token, or None if the metrics are public."""
    if settings.metrics_token is None:
        return None
    with blame_settings(settings, {"token": "metrics_token"}):
        return _limited(bearer(settings.metrics_token), client_of)


def _limited(authorize: Authorize, client_of: Callable[[Scope], Hashable]) -> GuessLimit:
    counter = Limiter(_GUESSES, max_keys=_MAX_GUESSING_CLIENTS)
    return GuessLimit(authorize, counter=counter, client_of=client_of)


def admin_routes(
    settings: Settings,
    engine: AlertEngine,
    policies: Sequence[Policy],
    authorize: Authorize | None,
    *,
    rejections: Rejections,
    blocks: BlockedKeys,
    shared_blocks: SharedBlocks | None,
    secret: bytes | None,
) -> list[BaseRoute]:
    """Return the routes of the admin API; none if operators cannot be authorized.

    Args:
        settings: Settings of the operator.
        engine: The alert engine.
        policies: Limits; more may be appended later.
        authorize: Checks operators; None if they cannot be authorized.
        rejections: Rejected keys.
        blocks: Blocked keys.
        shared_blocks: Blocked keys in all processes; None without alerts.
        secret: Secret of the handles of keys.
    """
    level = SharedLogLevel(engine) if settings.alerts else None
    shared = SharedLimits(engine, policies) if settings.alerts else None
    of_limits = partial(
        limit_routes,
        policies,
        blocks=blocks,
        rejections=rejections,
        name_of=engine.tenant_name,
        secret=secret,
    )
    if authorize is None:
        return []
    if level is None or shared is None or shared_blocks is None:
        return [
            *of_limits(authorize=authorize),
            *settings_routes(authorize=authorize),
        ]
    from ..alerts.admin import alert_routes, usage_routes  # unused without an admin token

    return [
        *alert_routes(engine, authorize=authorize),
        *usage_routes(engine, authorize=authorize),
        *of_limits(authorize=authorize, keep=shared.keep, keep_block=shared_blocks.keep),
        *settings_routes(authorize=authorize, keep=level.keep),
    ]


def tenant_routes(
    settings: Settings, engine: AlertEngine, tenant_of: TenantOf | None
) -> list[BaseRoute]:
    """Return the route of a tenant's own usage; none without a function that names the tenant.

    Raises:
        ValueError: `tenant_of` is not callable, or usage is not counted.
    """
    if tenant_of is None:
        return []
    if not callable(tenant_of):
        raise ValueError(
            "usage_tenant must be a function of the request that returns its tenant or None, "
            f"got a value of type {type(tenant_of).__name__}"
        )
    if not settings.alerts:
        raise ValueError(
            f"usage_tenant needs the store of the alerts, got {settings.origins['alerts']}=false"
        )
    from ..alerts.admin import tenant_usage_routes

    return tenant_usage_routes(engine, tenant_of=tenant_of)


class AlertedProviders:
    """Health of the providers from the firing alerts, so that health and alerts agree."""

    def __init__(self, engine: AlertEngine) -> None:
        self._engine = engine

    def report(self) -> dict[str, Observation]:
        """Return a warning for each credential and provider that is down."""
        at = time.time()
        return {
            f"{_failing_part(finding)}:consecutiveFailures": Observation(
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


def _failing_part(finding: Finding) -> str:
    """Return the provider of an alert, else the group or the id of its credential."""
    subject = finding.subject
    return str(finding.metadata.get("provider") or subject.name or subject.id)


def configure_logs(settings: Settings) -> None:
    """Configure logging from the settings; warn if the access log would not be written."""
    if settings.log_level is not None or settings.log_format is not None:
        configure_logging(
            settings.log_level or "INFO",
            settings.log_format or "text",
            capture=_SERVERS,  # their lines get the same format
            request_id=settings.access_log,
        )
    else:
        add_last_resort(request_id=settings.access_log)
    access = logging.getLogger(ACCESS_LOGGER)
    if settings.access_log and not access.isEnabledFor(logging.INFO):
        access.warning(
            "access log not written, because the log level is above INFO: call "
            "configure_logging(), or set TOKENPULSE_LOG_LEVEL=INFO"
        )
