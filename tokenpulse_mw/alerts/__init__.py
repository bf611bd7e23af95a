"""Alerts on the traffic of the gateway: engine, rules, sinks and stores."""

from .engine import AlertEngine
from .fleet import Fleet
from .lifecycle import Finding, Severity, Subject
from .middleware import AlertMiddleware
from .rules import (
    Budget,
    Quota,
    Rule,
    budget,
    default_rules,
    quota_exceeded,
    stalled_request,
    upstream_quota_low,
)
from .sinks import (
    AlertEvent,
    AlertmanagerSink,
    LogSink,
    Rejected,
    RetryLater,
    Sink,
    SlackSink,
    UsageWebhook,
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
from .usage_export import UsageEvent, UsageSink

__all__ = [
    "AlertEngine",
    "AlertEvent",
    "AlertMiddleware",
    "AlertStore",
    "AlertmanagerSink",
    "BadRecord",
    "Budget",
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
    "UsageEvent",
    "UsageSink",
    "UsageWebhook",
    "WebhookSink",
    "budget",
    "default_rules",
    "quota_exceeded",
    "stalled_request",
    "upstream_quota_low",
]
