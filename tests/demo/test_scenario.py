"""The demo's scenario."""

from __future__ import annotations

import math
import time

import anyio
import pytest
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.demo.scenario import Stage, keep_on
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor

from ..support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def test_a_little_traffic_goes_on_until_the_end() -> None:
    """So that the metrics move while somebody looks at them."""
    with LocalServer(Vendor().app) as server:
        stage = Stage(server.url, Vendor(), HttpMetrics(CollectorRegistry()), [])

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_on, stage, math.inf)
                with anyio.fail_after(PATIENCE):
                    # A vendor does not have the gateway's paths, which is an answer too.
                    while stage.seen.statuses["203.0.113.8", 404] < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(PATIENCE):
                await keep_on(stage, time.monotonic() + 0.01)

        anyio.run(main)
