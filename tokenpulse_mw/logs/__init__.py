"""Log formats, log levels, the access log and request ids."""

from .access import ACCESS_LOGGER, AccessLog
from .configure import configure_logging, formatter_for
from .formatters import JsonFormatter, TextFormatter
from .last_resort import add_last_resort
from .levels import LEVELS, check_level, log_level, set_log_level
from .request_id import RequestIdMiddleware, add_request_id, current_request_id, new_request_id
from .routes import change_level, settings_routes

__all__ = [
    "ACCESS_LOGGER",
    "LEVELS",
    "AccessLog",
    "JsonFormatter",
    "RequestIdMiddleware",
    "TextFormatter",
    "add_last_resort",
    "add_request_id",
    "change_level",
    "check_level",
    "configure_logging",
    "current_request_id",
    "formatter_for",
    "log_level",
    "new_request_id",
    "set_log_level",
    "settings_routes",
]
