"""Scenario of the demo."""

from __future__ import annotations

import math
import time

import anyio
import pytest
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.demo.scenario import RunningDemo, send_until
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor

from ..support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def test_traffic_continues_until_the_deadline() -> None:
    """One request a second keeps the metrics changing."""
    with LocalServer(Vendor().app) as server:
        demo = RunningDemo(server.url, Vendor(), HttpMetrics(CollectorRegistry()), [])

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_until, demo, math.inf)
                with anyio.fail_after(PATIENCE):
                    # The vendor has other paths than the gateway, so the status is 404.
                    while demo.stats.statuses["203.0.113.8", 404] < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(PATIENCE):
                await send_until(demo, time.monotonic() + 0.01)

        anyio.run(main)
