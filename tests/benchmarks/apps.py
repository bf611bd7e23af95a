"""Measured applications: bare, with a minimal middleware, and with each part."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import (
    AlertEngine,
    AlertMiddleware,
    ExchangeMiddleware,
    HttpMetrics,
    MetricsMiddleware,
    Policy,
    RateLimitMiddleware,
    Rates,
    Settings,
    TokenPulse,
)

from ..support.apps import streaming

PER_DAY = 1_000_000_000
LIMIT = f"{PER_DAY}/day"
CLIENTS = [(f"10.0.{number >> 8}.{number & 255}", 1) for number in range(1000)]
LABELS = ("method", "route", "status", "provider")

CHUNK = (
    b'data: {"id":"chatcmpl-BxY1kZ0q5J4mW9tR7pD2","object":"chat.completion.chunk",'
    b'"created":1769004042,"model":"gpt-5-mini-2026-01-21","service_tier":"default",'
    b'"system_fingerprint":"fp_8bda4d3a2c","choices":[{"index":0,'
    b'"delta":{"content":" pulse"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
STREAM_END = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":42}}\n\n',
    b"data: [DONE]\n\n",
)
COMPLETION = (
    b'{"id":"chatcmpl-BxY1kZ0q5J4mW9tR7pD2","object":"chat.completion","created":1769004042,'
    b'"model":"gpt-5-mini-2026-01-21","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"' + b"The weather is fine. " * 30 + b'","refusal":null,"annotations":[]},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":81,'
    b'"completion_tokens":160,"total_tokens":241,"prompt_tokens_details":{"cached_tokens":0,'
    b'"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":64,"audio_tokens":0,'
    b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default",'
    b'"system_fingerprint":"fp_8bda4d3a2c"}'
)


class Floor:
    """Minimal middleware with a dict of windows and two cached metrics."""

    def __init__(self, app: ASGIApp) -> None:
        registry = CollectorRegistry()
        self.app = app
        self.windows: dict[str, list[float]] = {}
        self.total = Counter("requests", "Requests", LABELS, registry=registry)
        self.seconds = Histogram("seconds", "Seconds", LABELS, registry=registry)
        self.children: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request in the window of its client and in the metrics."""
        began = time.monotonic()
        client = scope["client"][0]
        window = self.windows.get(client)
        if window is None or window[0] <= began:
            window = self.windows[client] = [began + 60, 0]
        window[1] += 1
        status = 0

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self.app(scope, receive, record_status)
        key = (scope["method"], scope["path"], status, "unknown")
        children = self.children.get(key)
        if children is None:
            labels = [str(value) for value in key]
            children = self.total.labels(*labels), self.seconds.labels(*labels)
            self.children[key] = children
        children[0].inc()
        children[1].observe(time.monotonic() - began)


def metrics() -> HttpMetrics:
    """Return metrics on a separate registry."""
    return HttpMetrics(CollectorRegistry())


def stack(app: ASGIApp) -> ASGIApp:
    """Return `app` with the whole stack of `TokenPulse`, without prices."""
    settings = Settings(limit=LIMIT, price_list="off")
    return TokenPulse(settings=settings, metrics=metrics()).wrap(app)


def with_cost(app: ASGIApp) -> dict[str, ASGIApp]:
    """Return `app` bare, with the whole stack, with its prices, and with a budget, by name."""
    settings = Settings(price_list="off")
    prices = {"gpt-5*": Rates(input="1.25", output=10, cache_read="0.125")}
    budget = Policy("1000 USD/day", name="budget", reserve="0.01 USD")
    priced, limited = (
        TokenPulse(settings=settings, metrics=metrics(), prices=prices, policies=policies)
        for policies in ([Policy(LIMIT)], [Policy(LIMIT), budget])
    )
    return {
        "bare": app,
        "whole stack": stack(app),
        "with prices": priced.wrap(app),
        "with prices and a budget": limited.wrap(app),
    }


def around(app: ASGIApp) -> dict[str, ASGIApp]:
    """Return `app` bare, with the minimal middleware, and with each part, by name."""
    return {
        "bare": app,
        "floor": Floor(app),
        "exchange": ExchangeMiddleware(app),
        "rate limit": RateLimitMiddleware(app, limit=LIMIT),
        "metrics": MetricsMiddleware(app, metrics=metrics()),
        "alerts": AlertMiddleware(app, engine=AlertEngine()),
        "whole stack": stack(app),
    }


def stream(chunks: int) -> ASGIApp:
    """Return an application that streams a chat completion, formatted as by OpenAI."""
    return streaming([*[CHUNK] * chunks, *STREAM_END])
