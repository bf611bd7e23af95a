"""Sinks of alert events: log, webhook, Slack, Alertmanager."""

from .alertmanager import AlertmanagerSink
from .base import Rejected, RetryLater
from .event import AlertEvent, Sink
from .log import LogSink
from .slack import SlackSink
from .usage_webhook import UsageWebhook
from .webhook import WebhookSink

__all__ = [
    "AlertEvent",
    "AlertmanagerSink",
    "LogSink",
    "Rejected",
    "RetryLater",
    "Sink",
    "SlackSink",
    "UsageWebhook",
    "WebhookSink",
]
