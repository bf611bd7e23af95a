"""Memory that a limiter holds under many clients, to be run as a separate process.

    python -m tests.support.limiter_memory STRATEGY CLIENTS

Prints the evictions, and the bytes held after each of the last 1,000 clients.
"""

from __future__ import annotations

import json
import sys
import tracemalloc

from tokenpulse_mw import Limiter

from .clock import FakeClock


def main(strategy: str, clients: int) -> None:
    """Send one request for each of `clients` within a minute."""
    clock = FakeClock(60_000.0)  # the beginning of a minute
    limiter = Limiter("3/minute", max_keys=1000, strategy=strategy, clock=clock)
    held = []
    for begin in range(0, clients, 1000):
        if begin == clients - 6000:
            tracemalloc.start()
        for client in range(begin, begin + 1000):
            limiter.hit(client)
        clock.advance(59_000 / clients)
        held.append(tracemalloc.get_traced_memory()[0])
    # By the last four, all entries of the table were added while memory was traced.
    sys.stdout.write(json.dumps([limiter.evictions, held[-4:]]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
