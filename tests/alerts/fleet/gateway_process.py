"""Process of a fleet whose traffic its parent controls, and that records what it counts.

    python -m tests.alerts.fleet.gateway_process PLAN

PLAN is a `Plan` as JSON. The process ends on SIGTERM, at its deadline, or with its parent.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from tokenpulse_mw import AlertEngine, Exchange, Thresholds
from tokenpulse_mw.alerts.fleet import Fleet
from tokenpulse_mw.alerts.rules import error_spike
from tokenpulse_mw.alerts.sinks import WebhookSink
from tokenpulse_mw.alerts.store import Batch, FleetState, LeaseRequest, Process, SQLAlertStore
from tokenpulse_mw.alerts.traffic.bucket import Columns, decode_bucket

TICK_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


class Plan(msgspec.Struct, frozen=True):
    """Options of a process.

    Attributes:
        url: URL of the database.
        webhook: URL that receives the events.
        record: File to which the process appends what it counts and stores.
        tenant: Tenant of all its requests.
        failing: File with a JSON array of the keys whose requests fail now.
        deadline: Seconds since the epoch at which it ends.
        heartbeat: Seconds between two heartbeats.
        lease: Seconds of the lease.
        interval: Seconds between two evaluations.
    """

    url: str
    webhook: str
    record: str
    tenant: str
    failing: str
    deadline: float
    heartbeat: int = 1
    lease: float = 3
    interval: float = 2


THRESHOLDS = Thresholds(error_window=6, keep_firing=6)


class Recorder:
    """Appends JSON arrays to a file; each of them survives a kill of the process.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, *values: object) -> None:
        """Append an array."""
        os.write(self._file, json.dumps(values).encode() + b"\n")


class RecordingStore(SQLAlertStore):
    """Store that records the batches that it was sent, and which of them it has confirmed."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        super().__init__(url, timeout=4)
        self._recorder = recorder

    async def heartbeat(
        self,
        process: Process,
        /,
        *,
        batches: Sequence[Batch],
        through: int,
        lease: LeaseRequest | None,
    ) -> FleetState:
        """Record `sent`, process, number and requests of each batch, then `stored` and its end."""
        for batch in batches:
            bucket = decode_bucket(batch.payload, batch.protocol)
            requests = sum(Columns.of(bucket.tenants).counts)
            self._recorder.add("sent", process.name, batch.number, requests)
        state = await super().heartbeat(process, batches=batches, through=through, lease=lease)
        newest = batches[-1].number if batches else state.pushed
        self._recorder.add("stored", process.name, newest)
        return state


def exchange(tenant: str, key: str, status: int) -> Exchange:
    """Return a finished exchange."""
    result = Exchange("POST", 0.0, "/chat", status, "claude", duration=0.1)
    result.tenant, result.api_key = tenant, key
    return result


def read_keys(path: str) -> list[str]:
    """Return the keys whose requests fail now."""
    return list(json.loads(Path(path).read_text()))


async def send_traffic(engine: AlertEngine, plan: Plan, recorder: Recorder) -> None:
    """Observe exchanges until cancelled, and record `observed`, their number and the time."""
    observed = 0
    while True:
        now = time.time()
        exchanges = [exchange(plan.tenant, key, 500) for key in read_keys(plan.failing)]
        healthy = [f"healthy-{random.randint(1, 50)}" for _ in range(random.randint(1, 4))]
        exchanges += [exchange(plan.tenant, key, 200) for key in healthy]
        for item in exchanges:
            engine.observe(item)
        observed += len(exchanges)
        recorder.add("observed", observed, now)
        await anyio.sleep(TICK_SECONDS)


async def main(plan: Plan) -> None:
    """Run the engine and its traffic."""
    recorder = Recorder(plan.record)
    engine = AlertEngine(
        [error_spike],
        [WebhookSink(plan.webhook, headers={"x-tenant": plan.tenant})],
        store=RecordingStore(plan.url, recorder),
        thresholds=THRESHOLDS,
        interval=plan.interval,
        cooldown=3600,
        fleet=Fleet(heartbeat=plan.heartbeat, lease=plan.lease),
    )
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with engine, anyio.create_task_group() as tasks:
            tasks.start_soon(send_traffic, engine, plan, recorder)
            with anyio.move_on_after(plan.deadline - time.time()):
                await anext(aiter(signals))
            tasks.cancel_scope.cancel()
    recorder.add("ended")


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even if it is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    arguments: Any = sys.argv[1:]
    anyio.run(main, msgspec.json.decode(arguments[0], type=Plan))
