"""Gateway with stored alerts, notifications, and an HTTP API for alerts.

Run it:

    TOKENPULSE_ADMIN_TOKEN=change-me-to-a-long-one uvicorn on_call:app

    curl -H 'Authorization: Bearer change-me-to-a-long-one' http://127.0.0.1:8000/admin/alerts
    curl -H 'Authorization: Bearer change-me-to-a-long-one' http://127.0.0.1:8000/admin/alerts/thresholds

ALERT_STORE is the database of the alerts. WEBHOOK_URL, SLACK_URL and ALERTMANAGER_URL add sinks.
A client that has nearly used its daily tokens causes an alert too.
Requires `pip install "tokenpulse-mw[sql,notify]"`.
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
    budget,
    default_rules,
    quota_exceeded,
)
from tokenpulse_mw.ratelimit import budgets, quotas

configure_logging("INFO", "json", request_id=True)


def sinks() -> list[Sink]:
    """Return a log sink, and the sinks that the environment configures."""
    sinks: list[Sink] = [LogSink()]
    if webhook := os.environ.get("WEBHOOK_URL"):
        # Signed with the secret; a list of secrets allows rotation.
        sinks.append(WebhookSink(webhook, secret=os.environ.get("WEBHOOK_SECRET")))
    if slack := os.environ.get("SLACK_URL"):
        sinks.append(SlackSink(slack))
    if alertmanager := os.environ.get("ALERTMANAGER_URL"):
        sinks.append(AlertmanagerSink(alertmanager.split(",")))
    return sinks


policies = [
    Policy("100/minute"),  # for each address
    Policy("1000000/day", name="tokens", key=keys.header("x-api-key"), tokens=4000),
]

engine = AlertEngine(
    # TokenPulse adds quotas and budgets only to an engine that it creates itself.
    [*default_rules(), quota_exceeded(quotas(policies)), budget(budgets(policies))],
    sinks(),
    # Initial values; thresholds set over HTTP are stored and take precedence.
    thresholds=Thresholds(error_rate=0.05, provider_failures=5, keep_firing=120),
    store=SQLAlertStore(os.environ.get("ALERT_STORE", "sqlite+aiosqlite:///alerts.db")),
)


async def chat(request: Request) -> JSONResponse:
    """Return an error; replace this with your proxy."""
    return JSONResponse({"error": {"message": "the vendor is down"}}, status_code=502)


app = Starlette(routes=[Route("/claude/v1/messages", chat, methods=["POST"])])
TokenPulse(
    service="on-call",
    providers=["claude"],
    settings=Settings(admin_token=os.environ["TOKENPULSE_ADMIN_TOKEN"], access_log=True),
    policies=policies,
    engine=engine,
).install(app)
