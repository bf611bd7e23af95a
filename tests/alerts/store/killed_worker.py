"""Process that changes a store as fast as it can until it is killed.

    python -m tests.alerts.store.killed_worker URL PREFIX

It prints a line before or after each change: `stored`, `acknowledged`, `delivering` or `delivered`
and the id of an alert, `pushed` and the number of a batch, or `version` and a version of the
thresholds.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from tokenpulse_mw.alerts.store import (
    Ack,
    Changes,
    Conflict,
    Leader,
    SQLAlertStore,
    WindowRecord,
)

from .leadership import beat, loaded, metered, take
from .samples import alert, notification, transition


def report(*words: object) -> None:
    """Print a line and flush it."""
    print(*words, flush=True)  # noqa: T201


async def change_alert(store: SQLAlertStore, leader: Leader, identity: str) -> None:
    """Store and acknowledge an alert, and deliver every second notification."""
    changes = Changes(
        (alert(identity),),
        (transition(identity),),
        (notification(identity, alert_id=identity),),
    )
    await store.commit(changes, leader=leader)
    report("stored", identity)
    await store.acknowledge(identity, Ack("ada", 1))
    report("acknowledged", identity)
    if int(identity.partition("-")[2]) % 2:
        report("delivering", identity)
        await store.delivered(identity)
        report("delivered", identity)


async def push(store: SQLAlertStore, leader: Leader, number: int) -> None:
    """Push a batch; every third time count all batches in a window and delete them."""
    await beat(store, leader.process, metered(number, leader.process))
    report("pushed", number)
    if number % 3 == 0:
        consumed = tuple((leader.process, number - index) for index in range(3))
        total = WindowRecord(leader.process, 0, 1, b"%d" % number)
        await store.commit(Changes(windows=(total,), consumed=consumed), leader=leader)


async def main(url: str, prefix: str) -> None:
    """Change alerts, traffic and thresholds concurrently, without end."""
    store = SQLAlertStore(url)
    leader = await take(store, prefix)
    numbers = itertools.count()

    async def change_alerts() -> None:
        for number in numbers:
            await change_alert(store, leader, f"{prefix}-{number}")

    async def push_batches() -> None:
        for number in itertools.count(1):
            await push(store, leader, number)

    async def change_thresholds() -> None:
        current = (await loaded(store)).thresholds
        version = None if current is None else current.version
        while True:
            try:
                new = await store.set_thresholds({}, expected=version, by=prefix, at=1)
            except Conflict as error:
                version = error.current
            else:
                version = new.version
                report("version", version)

    await asyncio.gather(change_alerts(), change_alerts(), push_batches(), change_thresholds())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
