"""Process with an engine that a test kills: alerts fire and resolve, and controls change them.

    python -m tests.alerts.killed_engine DATABASE WEBHOOK BY

Prints a line after each change: `acknowledged` and the id of an alert, or `version` and a number.
At the end of its input it resolves all alerts, and exits when the sink has every notification.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import anyio

from tokenpulse_mw.alerts import AlertEngine, Finding, Fleet, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.sinks import WebhookSink
from tokenpulse_mw.alerts.store import SQLAlertStore

_KEYS = 12
_printed_lines = 0


class FlappingRule:
    """A rule that finds each key for some printed lines, and then not for some.

    It depends on lines, not on time: a slow machine would cause more transitions than it can
    deliver, and the queue would drop the oldest.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._offset = random.uniform(0, 3)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        phase = self._offset + _printed_lines / 40
        for number in range(0 if self.stopped else _KEYS):
            if int(phase + number / _KEYS) % 3:
                yield Finding(
                    type="trouble",
                    subject=Subject("key", f"k{number}"),
                    severity="warning",
                    title="",
                    message="",
                    window=0,
                )


def print_line(*words: object) -> None:
    """Print a line without buffering."""
    global _printed_lines
    _printed_lines += 1
    print(*words, flush=True)  # noqa: T201


async def evaluate_and_acknowledge(engine: AlertEngine, by: str) -> None:
    """Evaluate in a loop, and acknowledge each alert that fires."""
    while True:
        for event in await engine.evaluate():
            if event.transition == "fired":
                await engine.controls.acknowledge(event.alert_id, by=by)
                print_line("acknowledged", event.alert_id)
        await anyio.sleep(0.01)


async def change_thresholds(engine: AlertEngine, by: str) -> None:
    """Change the thresholds in a loop."""
    while True:
        changed = engine.thresholds.changed(global_qps=1000 + time.time() % 1000)
        print_line("version", (await engine.controls.set_thresholds(changed, by=by)).version)
        await anyio.sleep(0.01)


async def main(database: str, webhook: str, by: str) -> None:
    """Run until killed, or until the input has ended and the queues are empty."""
    rule = FlappingRule()
    engine = AlertEngine(
        [rule],
        [WebhookSink(webhook)],
        store=SQLAlertStore(database),
        fleet=Fleet(heartbeat=1, lease=3),
    )
    async with engine:
        while not engine.leads:  # noqa: ASYNC110 - the lease of a killed process has to lapse
            await anyio.sleep(0.01)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(evaluate_and_acknowledge, engine, by)
            tasks.start_soon(change_thresholds, engine, by)
            await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()
        rule.stopped = True
        await engine.evaluate()
        while sum(engine.queue_length().values()):  # noqa: ASYNC110 - there is no event for that
            await anyio.sleep(0.01)


if __name__ == "__main__":
    database, webhook, by = sys.argv[1:]
    anyio.run(main, database, webhook, by)
