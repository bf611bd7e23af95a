"""Types of the public names, which `__init__.py` imports when they are first used."""

from .alerts import (
    AlertEngine as AlertEngine,
    AlertEvent as AlertEvent,
    AlertMiddleware as AlertMiddleware,
    Finding as Finding,
    Fleet as Fleet,
    LogSink as LogSink,
    Subject as Subject,
    Thresholds as Thresholds,
)
from .alerts.admin import (
    alert_routes as alert_routes,
    tenant_usage_routes as tenant_usage_routes,
    usage_routes as usage_routes,
)
from .config import (
    Settings as Settings,
)
from .exchange import (
    Exchange as Exchange,
    ExchangeMiddleware as ExchangeMiddleware,
    Models as Models,
    Observer as Observer,
    Providers as Providers,
    annotate as annotate,
    drop_exchange as drop_exchange,
)
from .health import (
    Check as Check,
    CheckResult as CheckResult,
    EventLoopLag as EventLoopLag,
    HealthRouter as HealthRouter,
    ProviderHealth as ProviderHealth,
    drain_on_sigterm as drain_on_sigterm,
)
from .logs import (
    AccessLog as AccessLog,
    RequestIdMiddleware as RequestIdMiddleware,
    configure_logging as configure_logging,
    current_request_id as current_request_id,
    settings_routes as settings_routes,
)
from .metrics import (
    HttpMetrics as HttpMetrics,
    MetricsMiddleware as MetricsMiddleware,
    metrics_routes as metrics_routes,
)
from .ratelimit import (
    Decision as Decision,
    InFlight as InFlight,
    Limiter as Limiter,
    PlanLimiter as PlanLimiter,
    Policy as Policy,
    RateLimited as RateLimited,
    RouteLimit as RouteLimit,
    RateLimitMiddleware as RateLimitMiddleware,
    anthropic_error as anthropic_error,
    keys as keys,
    openai_error as openai_error,
    problem_details as problem_details,
    requests_to as requests_to,
    reserve_from_request as reserve_from_request,
    tokens_from_request as tokens_from_request,
    too_many_requests as too_many_requests,
)
from .ratelimit.shared import (
    SharedInFlight as SharedInFlight,
    SharedLimiter as SharedLimiter,
)
from .ratelimit.zone import (
    ZoneInFlight as ZoneInFlight,
    ZoneLimiter as ZoneLimiter,
)
from .secret import (
    Secret as Secret,
)
from .stack import (
    TokenPulse as TokenPulse,
)
from .usage import (
    Cost as Cost,
    Prices as Prices,
    Rates as Rates,
    TokenUsage as TokenUsage,
)
from .web.auth import (
    Person as Person,
    bearer as bearer,
)

__version__: str
__all__: list[str]
