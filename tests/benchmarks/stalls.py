"""Stalls of the event loop: the longest step of what may block other requests."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from tokenpulse_mw import (
    AlertEngine,
    Exchange,
    HttpMetrics,
    Settings,
    Thresholds,
    TokenPulse,
    metrics_routes,
)
from tokenpulse_mw.alerts.store import SQLAlertStore

from ..alerts.store.leadership import commit
from ..alerts.store.samples import alerts, resolved
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from .apps import metrics
from .report import Cell, Row, Summary, table

FEW_ROUTES, ROUTES = 3, 3000
LABEL_SETS = 10_000
FAILING_KEYS = 50_000
SUBJECTS = 100_000
ALERTS = 100_000
FLOOD = 500  # requests

Stall = tuple[float, float]  # milliseconds of the longest step, and of all steps


class LoopSteps:
    """Milliseconds of CPU time of the steps of the running event loop, since the last `take`."""

    def __init__(self) -> None:
        self._times = [0.0]

    def add(self, milliseconds: float) -> None:
        """Record a step."""
        self._times.append(milliseconds)

    def take(self) -> Stall:
        """Return the longest step and the sum, and forget both."""
        times, self._times = self._times, [0.0]
        return max(times), sum(times)


@contextmanager
def loop_steps() -> Iterator[LoopSteps]:
    """Measure each step of the event loop in the body."""
    steps, run = LoopSteps(), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        steps.add((time.thread_time() - began) * 1000)

    asyncio.Handle._run = timed  # type: ignore[assignment,method-assign]
    try:
        yield steps
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


async def stall(steps: LoopSteps, work: Awaitable[object]) -> Stall:
    """Return the longest step of `work`, and the time of all, in a task of its own.

    The garbage collector is off: it would add the time of what the benchmark itself holds.
    """

    async def run() -> None:
        await work

    gc.disable()
    await asyncio.sleep(0)  # ends the step of the caller, which is not measured
    try:
        steps.take()
        await asyncio.create_task(run())
        return steps.take()
    finally:
        gc.enable()


async def _respond(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


def routed(number: int, limit: str) -> Starlette:
    """Return an application with `number` routes and the whole stack."""
    app = Starlette(routes=[Route(f"/v1/r{route}/{{item}}", _respond) for route in range(number)])
    settings = Settings(limit=limit, drain_delay=0)
    TokenPulse(settings=settings, metrics=metrics()).install(app)
    return app


async def index_stalls(steps: LoopSteps) -> AsyncIterator[tuple[str, Stall]]:
    """Yield the stalls of the start and of the first request, with many routes."""
    app = routed(ROUTES, "1000000/minute")
    started, stopped = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        if not started.is_set():
            return {"type": "lifespan.startup"}
        await stopped.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        started.set()

    async def run() -> None:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    running = asyncio.create_task(run())
    yield f"start with {ROUTES:,} routes", await stall(steps, started.wait())
    for case in ("first", "second"):
        request = drive(app, http_scope(f"/v1/r{ROUTES - 1}/item"))
        yield f"{case} request, {ROUTES:,} routes", await stall(steps, request)
    stopped.set()
    await running


async def flood_cost(number: int) -> float:
    """Return the microseconds of a rejected request to a new path, with `number` routes."""
    app, numbers = routed(number, "1/day"), count()

    async def flood() -> float:
        began = time.thread_time()
        for item in range(FLOOD):
            await drive(app, http_scope(f"/v1/r{next(numbers)}/{item}/more"))
        return (time.thread_time() - began) / FLOOD * 1e6

    await flood()
    return median([await flood() for _ in range(5)])


async def scrape_stalls(steps: LoopSteps) -> AsyncIterator[tuple[str, Stall]]:
    """Yield the stalls of scrapes with many label sets."""
    recorded = HttpMetrics(CollectorRegistry(), max_series=LABEL_SETS)
    for route in range(LABEL_SETS):
        recorded(Exchange("GET", 0.0, f"/route/{route}", 200, "claude"))
    app: ASGIApp = Starlette(routes=metrics_routes(recorded))
    for encoding in ("identity", "gzip"):
        headers = [(b"accept-encoding", encoding.encode())]
        taken = [
            await stall(steps, drive(app, http_scope("/metrics", headers=headers)))
            for _ in range(5)
        ]
        yield f"scrape of {LABEL_SETS:,} label sets, {encoding}", medians_of(taken)


def medians_of(stalls: list[Stall]) -> Stall:
    """Return the median of the longest steps, and of the sums."""
    longest, whole = zip(*stalls, strict=True)
    return median(longest), median(whole)


def _engine(clock: FakeClock, subjects: int) -> AlertEngine:
    thresholds = Thresholds(global_qps=1e9, master_rpm=10**9, master_tpm=10**9)
    return AlertEngine(
        sinks=[], thresholds=thresholds, max_subjects=subjects, clock=clock, wall=clock
    )


def _exchange(number: int, status: int = 200) -> Exchange:
    exchange = Exchange("POST", 0.0, "/chat", status, "claude", duration=1.0)
    exchange.tenant, exchange.api_key = f"tenant-{number % 1000}", f"key-{number}"
    return exchange


async def evaluation_stalls(steps: LoopSteps) -> AsyncIterator[tuple[str, Stall]]:
    """Yield the stalls of an evaluation in which every key has failed, but too rarely to fire."""
    clock = FakeClock(1000.0)
    engine = _engine(clock, FAILING_KEYS)
    for number in range(FAILING_KEYS):
        for status, times in ((200, 60), (500, 3)):
            exchange = _exchange(number, status)
            for _ in range(times):
                engine.observe(exchange)
    for case in ("first", "second"):
        name = f"{case} evaluation, {FAILING_KEYS:,} keys failed 3 of 63"
        yield name, await stall(steps, engine.evaluate())


async def roll_stalls(steps: LoopSteps) -> AsyncIterator[tuple[str, Stall]]:
    """Yield the stall of the evaluations in which a large window ends."""
    clock = FakeClock(1000.0)
    engine = _engine(clock, SUBJECTS)
    for number in range(SUBJECTS):
        engine.observe(_exchange(number))
    await engine.evaluate()
    taken = []
    for _ in range(90):
        clock.advance(10)
        taken.append(await stall(steps, engine.evaluate()))
    longest, whole = zip(*taken, strict=True)
    yield f"windows of {SUBJECTS:,} keys end, worst evaluation", (max(longest), max(whole))


async def page_stalls(steps: LoopSteps) -> AsyncIterator[tuple[str, Stall]]:
    """Yield the stalls of pages of alerts in SQLite; all CPU time, with that of its thread."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/alerts.db"
        store = SQLAlertStore(url, max_history=ALERTS)
        for first in range(0, ALERTS, 1000):
            numbers = range(first, first + 1000)
            await commit(store, alerts(*(_stored(number) for number in numbers)))
        filters: dict[str, dict[str, Any]] = {
            "newest": {},
            "state=resolved": {"state": "resolved"},
            "state=active, none": {"state": "active"},
            "subject of 100": {"subject": "key:k7"},
            "type of 20": {"type": "rare"},
            "severity of 20": {"severity": "critical"},
        }
        for name, options in filters.items():
            taken = []
            for _ in range(5):
                began = time.process_time()
                longest, _ = await stall(steps, store.alerts(**options))
                taken.append((longest, (time.process_time() - began) * 1000))
            yield f"page of {ALERTS:,} alerts in SQLite, {name}", medians_of(taken)
        await store.aclose()


def _stored(number: int) -> Any:
    is_rare = number % 5000 == 7
    finding = {"type": "trouble", "subject": {"kind": "key", "id": f"k{number % 1000}", "name": ""}}
    changes: dict[str, Any] = {"started_at": float(number), "finding": finding}
    if is_rare:
        changes |= {"type": "rare", "severity": "critical"}
    return resolved(f"a{number}", number + 1.0, **changes)


CASES: dict[str, Callable[[LoopSteps], AsyncIterator[tuple[str, Stall]]]] = {
    "routes": index_stalls,
    "scrape": scrape_stalls,
    "evaluation": evaluation_stalls,
    "end of a window": roll_stalls,
    "page of alerts": page_stalls,
}


async def _measure() -> Summary:
    rows: list[list[Cell]] = []
    summary: Summary = []
    with loop_steps() as steps:
        for subject, case in CASES.items():
            stalls = [(longest, name, whole) async for name, (longest, whole) in case(steps)]
            rows += [[name, longest, whole] for longest, name, whole in stalls]
            longest, name, _ = max(stalls)
            summary.append(
                Row(f"longest step of the event loop, {subject}", f"{longest:.1f} ms", name)
            )
    table("stalls of the event loop", ("case", "longest step in ms", "CPU in ms"), rows)
    few, many = await flood_cost(FEW_ROUTES), await flood_cost(ROUTES)
    flood: list[list[Cell]] = [[f"{FEW_ROUTES:,}", few], [f"{ROUTES:,}", many]]
    table("rejected request (429) to a new path", ("routes", "CPU in µs"), flood)
    compared = f"{many / few:.1f} x {FEW_ROUTES} routes"
    return [*summary, Row(f"429 to a new path, {ROUTES:,} routes", f"{many:.0f} µs", compared)]


def measure_stalls() -> Summary:
    """Print the longest steps."""
    return asyncio.run(_measure())
