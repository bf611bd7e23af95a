"""Cost of alerts: time per exchange and per evaluation, and memory per subject."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from itertools import count
from typing import Any

import anyio

from tokenpulse_mw import AlertEngine, Exchange, Thresholds, TokenUsage
from tokenpulse_mw.alerts import Traffic, default_rules
from tokenpulse_mw.alerts.steps import Steps, finish
from tokenpulse_mw.alerts.store.records import WindowRecord
from tokenpulse_mw.alerts.traffic.aggregator import TrafficAggregator
from tokenpulse_mw.alerts.traffic.bucket import PROTOCOL, Bucket, decode_bucket, encode_bucket

from .report import Cell, Summary, table

SUBJECTS = (5000, 100_000, 500_000)
OVER = 10  # masters above their threshold, and failing keys
THRESHOLDS = Thresholds(
    global_qps=1e9, master_rpm=1000, master_tpm=10**9, master_rpd=1000, master_tpd=10**9
)
USAGE = TokenUsage(input=1000, output=100)


def exchange(number: int, *, status: int = 200) -> Exchange:
    """Return an exchange of tenant `number`."""
    result = Exchange("POST", 0.0, "/chat", status, "claude", duration=1.0)
    result.tenant, result.api_key, result.usage = f"master-{number}", f"key-{number}", USAGE
    return result


def microseconds(call: Callable[[], object], times: int) -> float:
    """Return the microseconds per step of a call with `times` steps, the shortest of five."""
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        call()
        best = min(best, time.thread_time() - began)
    return best / times * 1e6


def bucket_of(exchanges: Iterable[Exchange], now: float = 1000.0) -> Bucket:
    """Return the bucket of exchanges that ended at `now`."""
    buckets: list[Bucket] = []
    aggregator = TrafficAggregator(THRESHOLDS, max_subjects=10**9, sealed=buckets.append)
    for item in exchanges:
        aggregator.observe(item, now)
    aggregator.seal(now, partial=True)
    return buckets[0]


def filled(subjects: int) -> Traffic:
    """Return the traffic of `subjects` tenants, of which `OVER` exceed their thresholds."""
    traffic = Traffic(THRESHOLDS, max_subjects=subjects)
    finish(traffic.apply(bucket_of(exchange(number) for number in range(subjects))))
    over = [exchange(number, status=500) for number in range(OVER)]
    finish(traffic.apply(bucket_of(over * 1000)))
    return traffic


def measure_observe() -> None:
    """Print the time to observe an exchange, by the number of tenants."""
    rows: list[list[Cell]] = []
    for tenants in (1, 100, 10_000):
        exchanges = [exchange(number) for number in range(tenants)] * (20_000 // tenants)
        aggregator = TrafficAggregator(THRESHOLDS, max_subjects=5000, sealed=lambda bucket: None)
        seconds = count(1000, 2)  # 10,000 requests a second

        def observe(
            exchanges: list[Exchange], aggregator: TrafficAggregator, seconds: Iterator[int]
        ) -> None:
            now = float(next(seconds))
            for number, item in enumerate(exchanges):
                aggregator.observe(item, now + number / 10_000)

        turn = partial(observe, exchanges, aggregator, seconds)
        rows.append([f"{tenants:,}", microseconds(turn, len(exchanges))])
    table("traffic of alerts: an exchange observed", ("tenants", "CPU in µs"), rows)


def longest_step(steps: Steps[Any]) -> float:
    """Return the milliseconds of the longest step."""
    longest, ended = 0.0, False
    while not ended:
        began = time.thread_time()
        ended = next(steps, steps) is steps
        longest = max(longest, time.thread_time() - began)
    return longest * 1000


def measure_buckets() -> None:
    """Print the time to encode, decode, merge, apply, store and restore, by subjects."""
    rows: list[list[Cell]] = []
    for subjects in (1000, 5000, 100_000):
        bucket = bucket_of(exchange(number) for number in range(subjects))
        payload = encode_bucket(bucket)
        traffic = Traffic(THRESHOLDS, max_subjects=subjects)
        finish(traffic.apply(bucket))
        records, _ = finish(traffic.snapshot())
        calls: dict[str, Callable[[], object]] = {
            "encode": partial(encode_bucket, bucket),
            "decode": partial(decode_bucket, payload, PROTOCOL),
            "merge": partial(deepcopy(bucket).merge, bucket),
        }
        stepwise: dict[str, Callable[[], Steps[Any]]] = {
            "apply": partial(traffic.apply, bucket),
            "snapshot": traffic.snapshot,
            "restore": partial(restored, subjects, records),
        }
        for name, call in calls.items():
            took = microseconds(call, 1) / 1000
            rows.append([f"{name}, {subjects:,}", took, took])
        for name, steps in stepwise.items():
            took = microseconds(lambda steps=steps: finish(steps()), 1) / 1000  # type: ignore[misc]
            rows.append([f"{name}, {subjects:,}", took, min(longest_step(steps()) for _ in "123")])
    columns = ("buckets and windows, tenants and keys", "CPU in ms", "longest step")
    table("buckets and windows of alerts", columns, rows)


def restored(subjects: int, records: list[WindowRecord]) -> Steps[int]:
    """Restore traffic from stored records."""
    return Traffic(THRESHOLDS, max_subjects=subjects).restore(records, 1001.0)


def evaluate(traffic: Traffic) -> None:
    """Evaluate the default rules, without processing the findings."""
    traffic.advance(1001.0)
    for rule in default_rules():
        list(rule(traffic, THRESHOLDS, 1001.0))
    finish(traffic.prepare_next_evaluation())()


async def whole_evaluation(subjects: int) -> float:
    """Return the milliseconds of an evaluation of an engine with a memory store."""
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
        began = time.thread_time()
        await engine.evaluate()
        took.append(time.thread_time() - began)
    return min(took) * 1000


def measure_evaluation() -> None:
    """Print the time of an evaluation and the memory of a subject, by the number of subjects."""
    rows: list[list[Cell]] = []
    for subjects in SUBJECTS:
        traffic = filled(subjects)
        took = microseconds(partial(evaluate, traffic), 1) / 1000
        worst = slowest_advance(traffic)
        size = memory(partial(filled, subjects)) / subjects
        whole = anyio.run(whole_evaluation, subjects)
        rows.append([f"{subjects:,}", took, whole, worst, f"{size:.0f}"])
    columns = ("subjects", "rules in ms", "engine in ms", "slowest advance in ms", "B per subject")
    table(f"evaluation with {OVER} subjects above their thresholds", columns, rows)
    size = memory(partial(busy, SUBJECTS[0])) / SUBJECTS[0]
    print(f"\nMemory of a subject that is active all day, of {SUBJECTS[0]:,}: {size:.0f} B")


def memory(create: Callable[[], object]) -> int:
    """Return the size of the result of `create` in bytes."""
    tracemalloc.start()
    result = create()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return size


def busy(subjects: int) -> Traffic:
    """Return the traffic of `subjects` tenants that are in every slot of every window."""
    traffic = Traffic(THRESHOLDS, max_subjects=subjects)
    bucket = bucket_of(exchange(number) for number in range(subjects))
    for now in (*range(0, 86400, 3600), *range(86400, 86730, 5)):
        bucket.slot = now // 5
        finish(traffic.apply(bucket))
    return traffic


def slowest_advance(traffic: Traffic) -> float:
    """Return the milliseconds of the slowest `advance` while all entries expire."""
    worst = 0.0
    for now in range(1001, 1500):
        began = time.thread_time()
        traffic.advance(float(now))
        worst = max(worst, time.thread_time() - began)
    return worst * 1000


def measure_alerts() -> Summary:
    """Run all benchmarks of alerts."""
    measure_observe()
    measure_buckets()
    measure_evaluation()
    return []
