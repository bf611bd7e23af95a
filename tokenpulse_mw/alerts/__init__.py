"""Alerts on the traffic of the gateway: engine, rules, sinks and stores."""

from .engine import AlertEngine
from .fleet import Fleet
from .lifecycle import Finding, Severity, Subject
from .middleware import AlertMiddleware
from .rules import Quota, Rule, default_rules, quota_exceeded
from .sinks import (
    AlertEvent,
    AlertmanagerSink,
    LogSink,
    Rejected,
    RetryLater,
    Sink,
    SlackSink,
    WebhookSink,
)
from .store import (
    AlertStore,
    BadRecord,
    Conflict,
    Matcher,
    MemoryAlertStore,
    Silence,
    SQLAlertStore,
    StoreError,
)
from .thresholds import InvalidThresholds, Thresholds
from .traffic.traffic import Traffic

__all__ = [
    "AlertEngine",
    "AlertEvent",
    "AlertMiddleware",
    "AlertStore",
    "AlertmanagerSink",
    "BadRecord",
    "Conflict",
    "Finding",
    "Fleet",
    "InvalidThresholds",
    "LogSink",
    "Matcher",
    "MemoryAlertStore",
    "Quota",
    "Rejected",
    "RetryLater",
    "Rule",
    "SQLAlertStore",
    "Severity",
    "Silence",
    "Sink",
    "SlackSink",
    "StoreError",
    "Subject",
    "Thresholds",
    "Traffic",
    "WebhookSink",
    "default_rules",
    "quota_exceeded",
]
