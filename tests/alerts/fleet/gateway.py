"""Gateway for several workers or replicas, with short intervals; the client chooses its responses.

Variables: ALERT_STORE and WEBHOOK are URLs, and COOLDOWN is in seconds.
"""

from __future__ import annotations

import os
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tokenpulse_mw import AlertEngine, Settings, Thresholds, TokenPulse, annotate, drop_exchange
from tokenpulse_mw.alerts import default_rules
from tokenpulse_mw.alerts.fleet import Fleet
from tokenpulse_mw.alerts.sinks import WebhookSink
from tokenpulse_mw.alerts.store import SQLAlertStore

from .gateway_process import end_with_parent

TOKEN = "a-token-of-enough-characters"
HEARTBEAT, LEASE, INTERVAL = 1, 3, 1
BUSY_SECONDS = 0.05


async def chat(request: Request) -> PlainTextResponse:
    """Return the process id, with the status of the query."""
    query = request.query_params
    credential = query.get("credential")
    annotate(
        request,
        provider=None if credential is None else "claude",
        tenant=query.get("tenant"),
        api_key=query.get("key"),
        credential=credential,
    )
    return PlainTextResponse(str(os.getpid()), int(query.get("status", "200")))


async def busy(request: Request) -> PlainTextResponse:
    """Return the process id after some time in which this worker accepts no other connection."""
    drop_exchange(request.scope)
    time.sleep(BUSY_SECONDS)  # noqa: ASYNC251
    return PlainTextResponse(str(os.getpid()))


def create() -> Starlette:
    """Return the gateway."""
    end_with_parent()
    app = Starlette(routes=[Route("/chat", chat), Route("/busy", busy)])
    engine = AlertEngine(
        default_rules(),
        [WebhookSink(os.environ["WEBHOOK"])],
        store=SQLAlertStore(os.environ["ALERT_STORE"]),
        thresholds=Thresholds(error_window=60, keep_firing=0, traffic_keep_firing=0),
        interval=INTERVAL,
        cooldown=float(os.environ["COOLDOWN"]),
        fleet=Fleet(heartbeat=HEARTBEAT, lease=LEASE),
    )
    settings = Settings(admin_token=TOKEN, limit=None)
    TokenPulse(settings=settings, engine=engine).install(app)
    return app
