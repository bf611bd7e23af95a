"""Additional time of each part in one process, with warm and with cold caches."""

from __future__ import annotations

import json

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import ExchangeMiddleware

from ..support.apps import answering
from ..support.asgi import http_scope
from .apps import CLIENTS, COMPLETION, around, stack, stream, with_cost
from .measure import cold, medians, warm
from .report import Cell, Row, Summary, table

CHUNKS = 2000


async def measure_requests(title: str, method: str, app: ASGIApp) -> Summary:
    """Print the additional time of each part, by request."""
    scopes = [http_scope("/claude/chat", method=method, client=client) for client in CLIENTS]
    apps = around(app)
    warm_times = await medians({name: warm(app, scopes, times=2000) for name, app in apps.items()})
    cold_times = await medians({name: cold(app, scopes, times=150) for name, app in apps.items()})
    rows: list[list[Cell]] = []
    for name in apps:
        row: list[Cell] = [name]
        for times in (warm_times, cold_times):
            more, floor = times[name] - times["bare"], times["floor"] - times["bare"]
            row += [more, more / floor]
        rows.append(row)
    columns = ("part", "warm, µs over bare", "x floor", "cold, µs over bare", "x floor")
    table(f"{title}, 1,000 clients, without a server", columns, rows)
    return [
        Row(f"whole stack without a server, {title}, {caches}", f"+{cost:.1f} µs", remark)
        for caches, cost, remark in (
            ("warm", rows[-1][1], f"{rows[-1][2]:.1f} x floor"),
            ("cold", rows[-1][3], f"{rows[-1][4]:.1f} x floor"),
        )
    ]


async def measure_chunks() -> None:
    """Print the time for each chunk of a long stream."""
    app = stream(CHUNKS)
    apps: dict[str, ASGIApp] = {
        "bare": app,
        "exchange without usage": ExchangeMiddleware(app, usage=False),
        "exchange": ExchangeMiddleware(app),
        "whole stack": stack(app),
    }
    scopes = [http_scope("/codex/chat", method="POST")]
    times = await medians({name: warm(app, scopes, times=3) for name, app in apps.items()})
    rows = [(name, (cost - times["bare"]) / CHUNKS) for name, cost in times.items()]
    table(f"chunk of a stream of {CHUNKS:,}", ("part", "µs over bare"), rows)


def frames_of(vendor: str, characters: int) -> tuple[str, str]:
    """Return the first message of a response of a model, and one with output."""
    output = "A" * characters
    if vendor == "Gemini Live":
        parts = [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": output}}]
        turn = json.dumps({"serverContent": {"modelTurn": {"parts": parts}}})
        return turn, turn
    kind = "output_audio" if vendor == "OpenAI Realtime" else "output_text"
    delta = {"type": f"response.{kind}.delta", "item_id": "item_1", "delta": output}
    created = {"type": "response.created", "response": {"id": "resp_1"}}
    return json.dumps(created), json.dumps(delta, separators=(",", ":"))


async def measure_frames() -> None:
    """Print the time for each frame of a WebSocket that has no usage."""
    rows: list[list[Cell]] = []
    for name in ("OpenAI Realtime", "OpenAI Responses", "Gemini Live"):
        for characters in (200, 4000):
            first, output = frames_of(name, characters)
            app = websocket(first, output)
            apps: dict[str, ASGIApp] = {
                "bare": app,
                "exchange": ExchangeMiddleware(app),
                "metered": ExchangeMiddleware(app, websocket_usage=True),
            }
            scopes = [{"type": "websocket", "path": "/live", "headers": []}]
            turns = {name: warm(app, scopes, times=3) for name, app in apps.items()}
            times = await medians(turns)
            unmetered = (times["exchange"] - times["bare"]) / CHUNKS
            metered = (times["metered"] - times["bare"]) / CHUNKS
            rows.append([f"{name}, {characters:,} characters", unmetered, metered])
    table(f"frame of {CHUNKS:,}", ("frame", "unmetered, µs over bare", "metered"), rows)


def websocket(first: str, output: str) -> ASGIApp:
    """Return an application that sends one frame, and then another one many times."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": first})
        message: Message = {"type": "websocket.send", "text": output}
        for _ in range(CHUNKS):
            await send(message)

    return app


async def measure_cost() -> Summary:
    """Print the additional time of prices and of a budget in money."""
    scopes = [http_scope("/codex/chat", method="POST", client=client) for client in CLIENTS]
    apps = with_cost(answering(COMPLETION))
    times = await medians({name: warm(app, scopes, times=2000) for name, app in apps.items()})
    base = times["whole stack"]
    rows = [(name, cost - times["bare"], cost / base) for name, cost in times.items()]
    table("POST with a cost, warm", ("part", "µs over bare", "of the whole stack"), rows)
    return [
        Row(f"the same, {name}, warm", f"+{more:.1f} µs", f"{share:.2f} of that")
        for name, more, share in rows[2:]
    ]


async def _measure() -> Summary:
    summary = await measure_requests("GET", "GET", answering())
    summary += await measure_requests("POST, metered JSON", "POST", answering(COMPLETION))
    summary += await measure_cost()
    await measure_chunks()
    await measure_frames()
    return summary


def measure_parts() -> Summary:
    """Print the tables of all parts."""
    return anyio.run(_measure)
