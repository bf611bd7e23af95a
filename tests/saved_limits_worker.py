"""Gateway that counts and saves its limit as fast as it can until it is killed.

    python -m tests.saved_limits_worker URL

It prints `restored` and the usage at the start, then `counting` and the usage before each request,
and `saved` and a usage that was saved.
"""

from __future__ import annotations

import asyncio
import sys

from tokenpulse_mw import Policy
from tokenpulse_mw.alerts.store import SQLAlertStore
from tokenpulse_mw.ratelimit import Limiter
from tokenpulse_mw.stack.saved_limits import SavedLimits


def report(*words: object) -> None:
    """Print a line and flush it."""
    print(*words, flush=True)  # noqa: T201


async def main(url: str) -> None:
    """Count requests of one tenant, without end."""
    limiter = Limiter("1000000/calendar year")
    saved = SavedLimits(SQLAlertStore(url), [Policy(limiter, name="tenant")])
    async with saved.running():
        used = limiter.limit - limiter.peek("acme").remaining
        report("restored", used)
        while True:
            for _ in range(10):
                used += 1
                report("counting", used)
                limiter.hit("acme")
            await saved.save()
            report("saved", used)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
