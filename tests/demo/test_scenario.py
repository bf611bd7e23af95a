"""The demo's scenario."""

from __future__ import annotations

import time

import anyio
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.demo.scenario import Stage, keep_on
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor


def test_a_little_traffic_goes_on_until_the_end() -> None:
    """So that the metrics move while somebody looks at them."""
    with LocalServer(Vendor().app) as server:
        stage = Stage(server.url, Vendor(), HttpMetrics(CollectorRegistry()), [])

        anyio.run(keep_on, stage, time.monotonic() + 2.0)

    # A vendor does not have the gateway's paths, which is an answer too.
    assert stage.seen.statuses["203.0.113.8", 404] >= 2
