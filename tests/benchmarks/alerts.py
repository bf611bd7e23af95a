"""What watching costs: a request, a round and a subject, for few subjects and for many."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import count

import anyio

from tokenpulse_mw import AlertEngine, Exchange, Thresholds, TokenUsage
from tokenpulse_mw.alerts import Traffic, default_rules

SUBJECTS = (5000, 100_000, 1_000_000)
OVER = 10  # masters above their threshold, and keys that fail
THRESHOLDS = Thresholds(
    global_qps=1e9, master_rpm=1000, master_tpm=10**9, master_rpd=1000, master_tpd=10**9
)
USAGE = TokenUsage(input=1000, output=100)


def exchange(number: int, *, status: int = 200) -> Exchange:
    """One of tenant `number`."""
    made = Exchange("POST", 0.0, "/chat", status, "claude", duration=1.0)
    made.tenant, made.api_key, made.usage = f"master-{number}", f"key-{number}", USAGE
    return made


def microseconds(call: Callable[[], object], times: int) -> float:
    """One of `times` that `call` does, the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best / times * 1e6


def filled(subjects: int) -> Traffic:
    """Traffic of so many tenants, ten of them over their thresholds."""
    traffic = Traffic(THRESHOLDS, max_subjects=subjects)
    for number in range(subjects):
        traffic.observe(exchange(number), 1000.0)
    for number in range(OVER):
        for _ in range(1000):
            traffic.observe(exchange(number, status=500), 1000.0)
    traffic.roll(1000.0)
    return traffic


def measure_observe() -> None:
    """Print what one exchange costs, of tenants that come again and of ever new ones."""
    print("\nwatching: microseconds an exchange")
    for tenants in (1, 100, 10_000):
        made = [exchange(number) for number in range(tenants)] * (20_000 // tenants)
        traffic = Traffic(THRESHOLDS, max_subjects=5000)
        seconds = count(1000, 2)  # 10,000 requests a second

        def observe(made: list[Exchange], traffic: Traffic, now: float) -> None:
            for each in made:
                traffic.observe(each, now)

        turn = partial(observe, made, traffic)
        took = microseconds(lambda turn=turn, at=seconds: turn(next(at)), len(made))  # type: ignore[misc]
        print(f"  {tenants:>9,} tenants {took:8.2f}")


def evaluate(traffic: Traffic) -> None:
    """A round, without what the engine makes of the findings."""
    traffic.roll(1001.0)
    for rule in default_rules():
        list(rule(traffic, THRESHOLDS, 1001.0))
    traffic.begin_evaluation()


async def whole_round(subjects: int) -> float:
    """Milliseconds of a round of an engine: what is found is judged, and kept in memory."""
    engine = AlertEngine(
        sinks=[], thresholds=THRESHOLDS, max_subjects=subjects, clock=lambda: 1000.0
    )
    for number in range(subjects):
        engine.observe(exchange(number))
    for number in range(OVER):
        for _ in range(1000):
            engine.observe(exchange(number, status=500))
    await engine.evaluate()
    took: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        await engine.evaluate()
        took.append(time.perf_counter() - began)
    return min(took) * 1000


def measure_failures() -> None:
    """Print what a round costs where every key has failed, none of them often enough to fire."""
    print(f"\na round with {OVER} of many over, where each key has failed, milliseconds: the rules")
    for subjects in (5000, 50_000, 100_000):
        for failures in (1, 3):
            traffic = filled(subjects)
            for number in range(subjects):
                for _ in range(20 * failures):
                    traffic.observe(exchange(number), 1000.0)
                for _ in range(failures):
                    traffic.observe(exchange(number, status=500), 1000.0)
            took = microseconds(partial(evaluate, traffic), 1) / 1000
            print(f"  {subjects:>9,} keys, {failures} of {21 * failures + 1} failed {took:8.2f}")


def measure_round() -> None:
    """Print what a round and a subject cost, by how many subjects there are."""
    print(f"\na round with {OVER} of many over, milliseconds: the rules, and the whole engine")
    for subjects in SUBJECTS:
        traffic = filled(subjects)
        took = microseconds(partial(evaluate, traffic), 1) / 1000
        worst = slowest_move(traffic)
        size = memory(partial(filled, subjects)) / subjects
        whole = anyio.run(whole_round, subjects)
        print(
            f"  {subjects:>9,} subjects {took:8.2f}{whole:8.2f}; {size:.0f} B for a subject that "
            f"came once; longest move {worst:.1f}"
        )
    size = memory(partial(busy, SUBJECTS[0])) / SUBJECTS[0]
    print(f"  {SUBJECTS[0]:>9,} that never rest {size:9.0f} B")


def memory(make: Callable[[], object]) -> int:
    """Bytes that what is made takes."""
    tracemalloc.start()
    made = make()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del made
    return size


def busy(subjects: int) -> Traffic:
    """Traffic of so many tenants that are in every slot of every window."""
    traffic = Traffic(THRESHOLDS, max_subjects=subjects)
    made = [exchange(number) for number in range(subjects)]
    for now in (*range(0, 86400, 3600), *range(86400, 86730, 6)):
        for each in made:
            traffic.observe(each, float(now))
    traffic.roll(86730.0)
    return traffic


def slowest_move(traffic: Traffic) -> float:
    """Milliseconds that the longest of the moves takes while all of it grows old."""
    worst = 0.0
    for now in range(1001, 1500, 1):
        traffic.observe(exchange(0), float(now))
        began = time.perf_counter()
        traffic.roll(float(now))
        worst = max(worst, time.perf_counter() - began)
    return worst * 1000


def measure_alerts() -> None:
    """Everything about watching."""
    measure_observe()
    measure_round()
    measure_failures()


if __name__ == "__main__":
    measure_alerts()
