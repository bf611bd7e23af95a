"""Alerts on the gateway's own traffic: rules, a life cycle, and an engine that runs them."""

from .engine import AlertEngine
from .lifecycle import Finding, Severity, Subject
from .middleware import AlertMiddleware
from .rules import Quota, Quotas, Rule, default_rules, quota_exceeded
from .sinks import (
    AlertEvent,
    AlertmanagerSink,
    Later,
    LogSink,
    Rejected,
    Sink,
    SlackSink,
    WebhookSink,
)
from .thresholds import InvalidThresholds, Thresholds
from .traffic import Traffic

__all__ = [
    "AlertEngine",
    "AlertEvent",
    "AlertMiddleware",
    "AlertmanagerSink",
    "Finding",
    "InvalidThresholds",
    "Later",
    "LogSink",
    "Quota",
    "Quotas",
    "Rejected",
    "Rule",
    "Severity",
    "Sink",
    "SlackSink",
    "Subject",
    "Thresholds",
    "Traffic",
    "WebhookSink",
    "default_rules",
    "quota_exceeded",
]
