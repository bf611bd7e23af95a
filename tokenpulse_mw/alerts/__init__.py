"""Alerts on the traffic of the gateway: engine, rules, sinks and stores."""

from .admin import TenantOf, alert_routes, tenant_usage_routes, usage_routes
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
    "TenantOf",
    "Thresholds",
    "Traffic",
    "UsageEvent",
    "UsageSink",
    "UsageWebhook",
    "WebhookSink",
    "alert_routes",
    "default_rules",
    "quota_exceeded",
    "tenant_usage_routes",
    "usage_routes",
]
