"""A gateway whose alerts survive a restart, reach people, and can be handled over HTTP.

Run it:

    TOKENPULSE_ADMIN_TOKEN=change-me-to-a-long-one uvicorn on_call:app

    curl -H 'Authorization: Bearer change-me-to-a-long-one' http://127.0.0.1:8000/admin/alerts
    curl -H 'Authorization: Bearer change-me-to-a-long-one' http://127.0.0.1:8000/admin/alerts/thresholds

It keeps its alerts in ALERT_STORE, and tells WEBHOOK_URL, SLACK_URL and ALERTMANAGER_URL, where
these are set. Whoever has nearly used up its tokens of the day is told of as well.
Needs `pip install "tokenpulse-mw[sql,notify]"`.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tokenpulse_mw import (
    AlertEngine,
    LogSink,
    Policy,
    Settings,
    Thresholds,
    TokenPulse,
    configure_logging,
    keys,
)
from tokenpulse_mw.alerts import (
    AlertmanagerSink,
    Sink,
    SlackSink,
    SQLAlertStore,
    WebhookSink,
    default_rules,
    quota_exceeded,
)
from tokenpulse_mw.ratelimit import budgets

configure_logging("INFO", "json", request_id=True)


def sinks() -> list[Sink]:
    """The log, and whoever else is to be told."""
    told: list[Sink] = [LogSink()]
    if webhook := os.environ.get("WEBHOOK_URL"):
        # Signed, so that the receiver knows that it was us; a list of secrets lets it change over.
        told.append(WebhookSink(webhook, secret=os.environ.get("WEBHOOK_SECRET")))
    if slack := os.environ.get("SLACK_URL"):
        told.append(SlackSink(slack))
    if alertmanager := os.environ.get("ALERTMANAGER_URL"):
        told.append(AlertmanagerSink(alertmanager.split(",")))
    return told


policies = [
    Policy("100/minute"),  # for each address
    Policy("1000000/day", name="tokens", key=keys.header("x-api-key"), tokens=4000),
]

engine = AlertEngine(
    # An engine that TokenPulse is given needs to be told of quotas; one that it makes is.
    [*default_rules(), quota_exceeded(budgets(policies))],
    sinks(),
    # Where people start from; what they change over HTTP is kept, and holds over this.
    thresholds=Thresholds(error_rate=0.05, provider_failures=5, keep_firing=120),
    store=SQLAlertStore(os.environ.get("ALERT_STORE", "sqlite+aiosqlite:///alerts.db")),
)


async def chat(request: Request) -> JSONResponse:
    """Where your proxy goes; this one always fails."""
    return JSONResponse({"error": {"message": "the vendor is down"}}, status_code=502)


app = Starlette(routes=[Route("/claude/v1/messages", chat, methods=["POST"])])
TokenPulse(
    service="on-call",
    providers=["claude"],
    settings=Settings(admin_token=os.environ["TOKENPULSE_ADMIN_TOKEN"], access_log=True),
    policies=policies,
    engine=engine,
).install(app)
