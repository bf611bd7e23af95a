"""One observed request: measured once, told to everyone; the floor that all features stand on."""

from .annotate import annotate, drop_exchange, said_of, tap_of
from .exchange import Exchange, Outcome, method_label
from .middleware import ExchangeMiddleware
from .names import LONGEST, shortened
from .observers import Failures, Observer, name_of
from .path import path_in_app
from .provider import PROVIDERS, UNKNOWN, ProviderResolver, Providers
from .route import RouteTemplates, serves
from .tap import SCOPE_KEY, Tap

__all__ = [
    "LONGEST",
    "PROVIDERS",
    "SCOPE_KEY",
    "UNKNOWN",
    "Exchange",
    "ExchangeMiddleware",
    "Failures",
    "Observer",
    "Outcome",
    "ProviderResolver",
    "Providers",
    "RouteTemplates",
    "Tap",
    "annotate",
    "drop_exchange",
    "method_label",
    "name_of",
    "path_in_app",
    "said_of",
    "serves",
    "shortened",
    "tap_of",
]
