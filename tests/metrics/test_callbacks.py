"""Families whose values are read by callbacks."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from tokenpulse_mw import HttpMetrics

LAST_EVALUATION = "tokenpulse_alert_last_evaluation_timestamp_seconds"
KEYS = "tokenpulse_rate_limit_keys"
EVICTIONS = "tokenpulse_rate_limit_evictions_total"


class Owner:
    """Object with a number of keys."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    def count(self) -> Mapping[tuple[str], int]:
        """Return the number of keys of the default policy."""
        return {("default",): self.keys}


def sample(metrics: HttpMetrics, name: str = KEYS, **labels: str) -> float | None:
    """Return the value of a sample in a scrape."""
    return metrics.registry.get_sample_value(name, labels)


def test_callback_is_called_at_each_read(metrics: HttpMetrics) -> None:
    """Every exposition of the registry shows the current value."""
    owner = Owner(3)
    metrics.add_callback(KEYS, owner.count)

    before = sample(metrics, policy="default")
    owner.keys = 5

    assert (before, sample(metrics, policy="default")) == (3, 5)
    assert b'tokenpulse_rate_limit_keys{policy="default"} 5.0\n' in metrics.render()


def test_values_of_several_callbacks_are_added(metrics: HttpMetrics) -> None:
    """Two applications on one registry may have the same policy."""
    first, second = Owner(3), Owner(4)
    metrics.add_callback(KEYS, first.count)
    metrics.add_callback(KEYS, second.count)
    metrics.add_callback(KEYS, lambda: {("other",): 1})

    assert (sample(metrics, policy="default"), sample(metrics, policy="other")) == (7, 1)


def test_timestamp_is_the_newest_of_all_callbacks(metrics: HttpMetrics) -> None:
    """The evaluation of one engine is enough."""
    for when in (10.0, 30.0, 20.0):
        metrics.add_callback(LAST_EVALUATION, lambda when=when: {(): when})  # type: ignore[misc]

    metrics.refresh()

    assert metrics.registry.get_sample_value(LAST_EVALUATION) == 30


def test_timestamp_of_a_former_leader_is_not_shown(metrics: HttpMetrics) -> None:
    """A timestamp that the callback no longer returns disappears, while other gauges become 0."""
    timestamps, keys = {(): 30.0}, {("default",): 7.0}
    metrics.add_callback(LAST_EVALUATION, lambda: timestamps)
    metrics.add_callback(KEYS, lambda: keys)
    metrics.refresh()

    timestamps, keys = {}, {}
    metrics.refresh()

    assert metrics.registry.get_sample_value(LAST_EVALUATION) is None
    assert sample(metrics, policy="default") == 0


def test_bound_method_is_held_weakly(metrics: HttpMetrics) -> None:
    """A discarded application leaves the value 0 and is not kept alive by its metrics."""
    owner = Owner(3)
    metrics.add_callback(KEYS, owner.count)
    assert sample(metrics, policy="default") == 3

    del owner
    gc.collect()

    assert sample(metrics, policy="default") == 0


def test_failing_callback_keeps_the_last_values(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure of a callback is counted, and the outage is logged."""
    results: list[Mapping[tuple[str], int]] = [{("default",): 3}]
    caplog.set_level(logging.INFO)
    metrics.add_callback(KEYS, lambda: results.pop())

    first = sample(metrics, policy="default")
    second, third = sample(metrics, policy="default"), sample(metrics, policy="default")

    assert (first, second, third) == (3, 3, 3)
    assert sample(metrics, "tokenpulse_internal_errors_total", component="metrics") == 3
    results.append({("default",): 4})
    assert sample(metrics, policy="default") == 4
    assert caplog.messages == [
        f"{KEYS} failed with IndexError: requests continue without it",
        f"{KEYS} recovered from IndexError (seconds=0 failures=3)",
    ]


def test_counted_family_rejects_a_callback(metrics: HttpMetrics) -> None:
    """The error lists the families with callbacks."""
    with pytest.raises(
        ValueError,
        match=r"name must be one of .*limit_keys.*, got 'tokenpulse_http_requests_total'$",
    ):
        metrics.add_callback("tokenpulse_http_requests_total", dict)


@pytest.mark.parametrize(
    "values",
    [{"client": 5}, {("a", "b"): 5}, {(): 5}, {("a",): None}, {("a",): "many"}, 5],
    ids=["no tuple", "too many labels", "no label", "no value", "no number", "no mapping"],
)
def test_invalid_values_only_affect_their_family(metrics: HttpMetrics, values: Any) -> None:
    """The other families are still scraped."""
    metrics.add_callback(KEYS, lambda: values)

    text = metrics.render()

    assert b"tokenpulse_rate_limit_keys{" not in text
    assert b'tokenpulse_internal_errors_total{component="metrics"} 1.0\n' in text


def test_label_values_are_converted_to_text(metrics: HttpMetrics) -> None:
    """Label values with the same text are one series."""
    metrics.add_callback(KEYS, lambda: {(1,): 1})
    metrics.add_callback(KEYS, lambda: {("1",): 2})

    assert sample(metrics, policy="1") == 3


def test_counter_never_decreases(metrics: HttpMetrics) -> None:
    """A missing label set, an unknown value and a discarded object keep the last count."""
    discarded = Owner(100)
    results: list[Mapping[tuple[str], float] | None] = [{("a",): 12}, None, {}, {("a",): 10}]
    metrics.add_callback(EVICTIONS, lambda: results.pop())
    metrics.add_callback(EVICTIONS, discarded.count)

    values = [sample(metrics, EVICTIONS, policy="a") for _ in range(4)]
    del discarded
    gc.collect()
    results.append({("a",): 13})

    assert values == [10, 10, 10, 12]
    assert sample(metrics, EVICTIONS, policy="a") == 13
    assert sample(metrics, EVICTIONS, policy="default") == 100


def test_method_without_weak_reference_is_held_strongly(
    metrics: HttpMetrics,
) -> None:
    """Objects with slots may not support weak references."""

    class Slotted:
        __slots__ = ()

        def count(self) -> Mapping[tuple[str], int]:
            return {("default",): 3}

    metrics.add_callback(KEYS, Slotted().count)

    assert sample(metrics, policy="default") == 3


@pytest.mark.anyio
async def test_tasks_of_asyncio_are_counted(metrics: HttpMetrics, anyio_backend_name: str) -> None:
    """The number of tasks has no value without a running asyncio event loop."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        running = sample(metrics, "tokenpulse_asyncio_tasks")
        tasks.cancel_scope.cancel()

    assert (running or 0) >= 2 if anyio_backend_name == "asyncio" else running is None
