"""A process that is killed: its alerts begin and end all the time, and people change things.

    python -m tests.alerts.killed_engine DATABASE WEBHOOK BY

Each line is what is done: `seen` and the id of an alert, or `version` and a number. When its input
ends it finds nothing more, and ends itself when everybody has been told.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import anyio

from tokenpulse_mw.alerts import AlertEngine, Finding, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.sinks import WebhookSink
from tokenpulse_mw.alerts.store import SQLAlertStore

_KEYS = 12
_said = list[str]()


class Troubles:
    """A rule by what was said: each key is in trouble for some lines, and then is not.

    Time has no part in it: on a slow machine too much would happen while nobody can be told of it,
    so that old news would make way for new ones.
    """

    def __init__(self) -> None:
        self.over = False
        self._began = random.uniform(0, 3)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        turns = self._began + len(_said) / 40
        for number in range(0 if self.over else _KEYS):
            if int(turns + number / _KEYS) % 3:
                yield Finding(
                    type="trouble",
                    subject=Subject("key", f"k{number}"),
                    severity="warning",
                    title="",
                    message="",
                    window=0,
                )


def say(*words: object) -> None:
    """Print a line at once."""
    _said.append(str(words[0]))
    print(*words, flush=True)  # noqa: T201


async def rounds(engine: AlertEngine, by: str) -> None:
    """Evaluate as fast as it goes, and acknowledge what begins."""
    while True:
        for event in await engine.evaluate():
            if event.transition == "fired":
                await engine.controls.acknowledge(event.alert_id, by=by)
                say("seen", event.alert_id)
        await anyio.sleep(0.01)


async def edits(engine: AlertEngine, by: str) -> None:
    """Change the thresholds again and again."""
    while True:
        changed = engine.thresholds.changed(global_qps=1000 + time.time() % 1000)
        say("version", (await engine.controls.set_thresholds(changed, by=by)).version)
        await anyio.sleep(0.01)


async def main(database: str, webhook: str, by: str) -> None:
    """Go on until killed, or until the input ends and all is told."""
    troubles = Troubles()
    engine = AlertEngine([troubles], [WebhookSink(webhook)], store=SQLAlertStore(database))
    async with engine:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rounds, engine, by)
            tasks.start_soon(edits, engine, by)
            await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()
        troubles.over = True
        await engine.evaluate()
        while sum(engine.queue_length().values()):  # noqa: ASYNC110 - there is no event for that
            await anyio.sleep(0.01)


if __name__ == "__main__":
    database, webhook, by = sys.argv[1:]
    anyio.run(main, database, webhook, by)
