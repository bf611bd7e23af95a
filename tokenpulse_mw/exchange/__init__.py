"""Exchanges: each request is measured once and delivered to every observer."""

from .annotate import annotate, annotations_of, drop_exchange, recorder_of
from .exchange import (
    SWITCHING_PROTOCOLS,
    Exchange,
    Fault,
    Outcome,
    UpstreamQuota,
    method_label,
    upstream_failed,
)
from .fault import FAULTS
from .in_progress import RequestInProgress, RequestsInProgress
from .middleware import ExchangeMiddleware
from .models import UNKNOWN, Models, fold_model, model_pattern
from .observers import ErrorReporter, Observer, ObserverLike, component_name
from .provider import ProviderResolver, Providers
from .recorder import SCOPE_KEY, Recorder
from .request_model import SAFE_METHODS, read_request_model, requested_model, requested_tokens
from .route import RouteTemplates, exact_reads, has_route
from .route_group import RouteGroup
from .route_tree import find_router
from .scope import MAX_TEXT_CHARS, app_path, request_headers, truncate_with_hash
from .upstream import QuotaPool, UpstreamQuotas
from .vendors import PROVIDERS
from .websocket import add_usage_callback, end_responses

__all__ = [
    "FAULTS",
    "MAX_TEXT_CHARS",
    "PROVIDERS",
    "SAFE_METHODS",
    "SCOPE_KEY",
    "SWITCHING_PROTOCOLS",
    "UNKNOWN",
    "ErrorReporter",
    "Exchange",
    "ExchangeMiddleware",
    "Fault",
    "Models",
    "Observer",
    "ObserverLike",
    "Outcome",
    "ProviderResolver",
    "Providers",
    "QuotaPool",
    "Recorder",
    "RequestInProgress",
    "RequestsInProgress",
    "RouteGroup",
    "RouteTemplates",
    "UpstreamQuota",
    "UpstreamQuotas",
    "add_usage_callback",
    "annotate",
    "annotations_of",
    "app_path",
    "component_name",
    "drop_exchange",
    "end_responses",
    "exact_reads",
    "find_router",
    "fold_model",
    "has_route",
    "method_label",
    "model_pattern",
    "read_request_model",
    "recorder_of",
    "request_headers",
    "requested_model",
    "requested_tokens",
    "truncate_with_hash",
    "upstream_failed",
]
