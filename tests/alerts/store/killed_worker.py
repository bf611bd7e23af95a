"""A process that is killed: it changes a store as fast as it can, and prints what is done.

    python -m tests.alerts.store.killed_worker URL PREFIX

Each line is what has begun or is over: `begin`, `keep`, `seen` or `gone`, and a number; or
`version` and the number of one.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from tokenpulse_mw.alerts.store import Ack, Changes, Conflict, SQLAlertStore

from .samples import alert, notification, transition


def say(*words: object) -> None:
    """Print a line at once."""
    print(*words, flush=True)  # noqa: T201


async def live(store: SQLAlertStore, number: str) -> None:
    """One alert fires, is seen, and every second one's notification is delivered."""
    await store.commit(
        Changes((alert(number),), (transition(number),), (notification(number, alert_id=number),))
    )
    say("keep", number)
    await store.acknowledge(number, Ack("ada", 1))
    say("seen", number)
    if int(number.partition("-")[2]) % 2:
        say("begin", number)
        await store.delivered(number)
        say("gone", number)


async def main(url: str, prefix: str) -> None:
    """Change everything, several at a time, until killed."""
    store = SQLAlertStore(url)
    numbers = itertools.count()

    async def alerts() -> None:
        for number in numbers:
            await live(store, f"{prefix}-{number}")

    async def thresholds() -> None:
        kept = (await store.load()).thresholds
        version = None if kept is None else kept.version
        while True:
            try:
                made = await store.set_thresholds({}, expected=version, by=prefix, at=1)
            except Conflict as error:
                version = error.current
            else:
                version = made.version
                say("version", version)

    await asyncio.gather(alerts(), alerts(), thresholds())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
