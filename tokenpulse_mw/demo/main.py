"""Sets the demo up, lets it run, and reports."""

from __future__ import annotations

import sys
import time
from math import inf, isfinite

import anyio
from prometheus_client import CollectorRegistry

from .. import AlertEngine, AlertEvent, HttpMetrics, Settings, Thresholds, TokenPulse
from .clients import CALLS
from .gateway import build_gateway
from .report import report
from .scenario import LIMIT, Stage, keep_on, play, promises
from .server import LocalServer
from .vendor import Vendor


def run_demo(*, seconds: float | None = None, port: int = 0) -> int:
    """Run the demo; gives 0 if all that it promises has happened, else 1.

    Args:
        seconds: How long it runs, though never shorter than it needs; None for until Ctrl-C.
        port: The gateway's; 0 for a free one.
    """
    until = inf if seconds is None else time.monotonic() + seconds
    vendor = Vendor()
    events: list[AlertEvent] = []

    async def remember(event: AlertEvent) -> None:
        events.append(event)
        _say(f"  alert {event.transition}: {event.finding.title}")

    with LocalServer(vendor.app) as behind:
        pulse = TokenPulse(
            service="tokenpulse demo",
            providers=list(CALLS),
            settings=Settings(limit=f"{LIMIT}/minute", trusted_proxies=("127.0.0.0/8",)),
            credentials=dict.fromkeys(CALLS, True),
            # Everything that takes minutes in a real gateway takes seconds here.
            engine=AlertEngine(
                sinks=[remember], interval=0.25, thresholds=Thresholds(error_window=2)
            ),
            metrics=HttpMetrics(CollectorRegistry()),
        )
        gateway = build_gateway(behind.url)
        pulse.install(gateway)
        with LocalServer(gateway, port=port) as front:
            _say(f"gateway on {front.url}, in front of a vendor on {behind.url}")
            try:
                stage = Stage(front.url, vendor, pulse.metrics, events)
                return anyio.run(_show, stage, until)
            except KeyboardInterrupt:
                _say("stopped")
                return 0


async def _show(stage: Stage, until: float) -> int:
    await play(stage, lambda step: _say(f"- {step}"))
    kept = promises(stage)
    _say(report(stage, kept))
    _say("running on until the end" if isfinite(until) else "running on; Ctrl-C ends it")
    await keep_on(stage, until)
    return 0 if all(kept.values()) else 1


def _say(line: str) -> None:
    print(line)
    sys.stdout.flush()
