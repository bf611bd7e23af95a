"""Scenario of the demo."""

from __future__ import annotations

import math
import time

import anyio
import pytest
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.demo import scenario
from tokenpulse_mw.demo.scenario import RunningDemo, send_until
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor

from ..support.waiting import PATIENCE

pytestmark = pytest.mark.slow

CLIENTS = [*(f"203.0.113.{number}" for number in (20, 21, 22, 30, 31)), "203.0.113.8"]


class RecordingVendor(Vendor):
    """A vendor that records whether the key was rejected and accepted again."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "rejects_gemini":
            self.__dict__.setdefault("changes", []).append(value)
        super().__setattr__(name, value)


def test_traffic_continues_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tenants send requests, and the key of a provider is rejected for a while."""
    monkeypatch.setattr(scenario, "_ACCEPTED_SECONDS", 0.01)
    monkeypatch.setattr(scenario, "_REJECTED_SECONDS", 0.01)
    vendor = RecordingVendor()
    with LocalServer(Vendor().app) as server:
        demo = RunningDemo(server.url, vendor, HttpMetrics(CollectorRegistry()), [])

        def is_done() -> bool:
            # The vendor has other paths than the gateway, so the status is 404.
            counts = [demo.stats.statuses[client, 404] for client in CLIENTS]
            return min(counts) >= 2 and len(vendor.__dict__["changes"]) >= 4

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_until, demo, math.inf)
                with anyio.fail_after(PATIENCE):
                    while not is_done():  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(PATIENCE):
                await send_until(demo, time.monotonic() + 0.01)
                await send_until(demo, time.monotonic() - 1)

        anyio.run(main)

    assert vendor.__dict__["changes"][:4] == [False, True, False, True]
