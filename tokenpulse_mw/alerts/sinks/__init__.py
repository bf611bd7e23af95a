"""Where alerts are told: the log, webhooks, Slack and its like, Alertmanager."""

from .alertmanager import AlertmanagerSink
from .errors import Later, Rejected
from .event import AlertEvent, Sink
from .log import LogSink
from .slack import SlackSink
from .webhook import WebhookSink

__all__ = [
    "AlertEvent",
    "AlertmanagerSink",
    "Later",
    "LogSink",
    "Rejected",
    "Sink",
    "SlackSink",
    "WebhookSink",
]
