"""Memory that a limiter holds while many clients come, to be run in a process of its own.

    python -m tests.support.limiter_memory STRATEGY CLIENTS

Prints the evictions, and the bytes held after each of the last thousands of clients.
"""

from __future__ import annotations

import json
import sys
import tracemalloc

from tokenpulse_mw import Limiter

from .clock import FakeClock


def main(strategy: str, clients: int) -> None:
    """Let `clients` send one request each within a minute."""
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
    # The last four: all that is in the table then was put there while memory was traced.
    sys.stdout.write(json.dumps([limiter.evictions, held[-4:]]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
