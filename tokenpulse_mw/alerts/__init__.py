"""Alerts on the gateway's own traffic: rules, a life cycle, and an engine that runs them."""

from .engine import AlertEngine
from .lifecycle import Finding, Severity, Subject
from .middleware import AlertMiddleware
from .rules import Rule, default_rules
from .sinks import AlertEvent, LogSink, Sink
from .thresholds import Thresholds
from .traffic import Traffic

__all__ = [
    "AlertEngine",
    "AlertEvent",
    "AlertMiddleware",
    "Finding",
    "LogSink",
    "Rule",
    "Severity",
    "Sink",
    "Subject",
    "Thresholds",
    "Traffic",
    "default_rules",
]
