"""Sources: values that are looked up when somebody reads them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from tokenpulse_mw import HttpMetrics

KEYS = "tokenpulse_rate_limit_keys"


EVICTIONS = "tokenpulse_rate_limit_evictions_total"


class Owner:
    """Something that can tell how many keys it has."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    def count(self) -> Mapping[tuple[str], int]:
        """Its keys, as those of one policy."""
        return {("default",): self.keys}


def shown(metrics: HttpMetrics, name: str = KEYS, **labels: str) -> float | None:
    """A sample, as a scrape has it now."""
    return metrics.registry.get_sample_value(name, labels)


def test_a_value_is_looked_up_when_it_is_read(metrics: HttpMetrics) -> None:
    """By whatever reads it, each time anew."""
    owner = Owner(3)
    metrics.add_callback(KEYS, owner.count)

    before = shown(metrics, policy="default")
    owner.keys = 5

    assert (before, shown(metrics, policy="default")) == (3, 5)
    assert b'tokenpulse_rate_limit_keys{policy="default"} 5.0\n' in metrics.render()


def test_what_several_sources_say_is_added_up(metrics: HttpMetrics) -> None:
    """Two applications on one registry have keys of the same policy."""
    first, second = Owner(3), Owner(4)
    metrics.add_callback(KEYS, first.count)
    metrics.add_callback(KEYS, second.count)
    metrics.add_callback(KEYS, lambda: {("other",): 1})

    assert (shown(metrics, policy="default"), shown(metrics, policy="other")) == (7, 1)


def test_of_what_only_the_least_counts_the_least_is_shown(metrics: HttpMetrics) -> None:
    """Of two engines the one that has stopped is not hidden by the other."""
    name = "tokenpulse_alert_last_evaluation_timestamp_seconds"
    for when in (30.0, 10.0, 20.0):
        metrics.add_callback(name, lambda when=when: {(): when})  # type: ignore[misc]

    metrics.refresh()

    assert metrics.registry.get_sample_value(name) == 10


def test_a_source_is_forgotten_with_its_object(metrics: HttpMetrics) -> None:
    """An application that is gone leaves a 0, and is not kept alive by its metrics."""
    owner = Owner(3)
    metrics.add_callback(KEYS, owner.count)
    assert shown(metrics, policy="default") == 3

    del owner
    gc.collect()

    assert shown(metrics, policy="default") == 0


def test_a_source_that_fails_costs_nothing_but_its_family(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps what it showed last; each failure is counted, and the outage is logged."""
    answers: list[Mapping[tuple[str], int]] = [{("default",): 3}]
    caplog.set_level(logging.INFO)
    metrics.add_callback(KEYS, lambda: answers.pop())

    first = shown(metrics, policy="default")
    second, third = shown(metrics, policy="default"), shown(metrics, policy="default")

    assert (first, second, third) == (3, 3, 3)
    assert shown(metrics, "tokenpulse_internal_errors_total", component="metrics") == 3
    answers.append({("default",): 4})
    assert shown(metrics, policy="default") == 4
    assert caplog.messages == [
        f"{KEYS} failed with IndexError: requests go on without it",
        f"{KEYS} recovered from IndexError (seconds=0 failures=3)",
    ]


def test_a_family_that_is_counted_has_no_source(metrics: HttpMetrics) -> None:
    """The error names those that have."""
    with pytest.raises(ValueError, match=r"no family 'tokenpulse_http_requests_total'.*limit_keys"):
        metrics.add_callback("tokenpulse_http_requests_total", dict)


@pytest.mark.parametrize(
    "values",
    [{"client": 5}, {("a", "b"): 5}, {(): 5}, {("a",): None}, {("a",): "many"}, 5],
    ids=["no tuple", "too many labels", "no label", "no value", "no number", "no mapping"],
)
def test_a_source_that_gives_something_else_costs_nothing_but_its_family(
    metrics: HttpMetrics, values: Any
) -> None:
    """A scrape is a scrape, whatever one of its sources thinks."""
    metrics.add_callback(KEYS, lambda: values)

    text = metrics.render()

    assert b"tokenpulse_rate_limit_keys{" not in text
    assert b'tokenpulse_internal_errors_total{component="metrics"} 1.0\n' in text


def test_label_values_are_text(metrics: HttpMetrics) -> None:
    """So that two that are written alike are one series."""
    metrics.add_callback(KEYS, lambda: {(1,): 1})
    metrics.add_callback(KEYS, lambda: {("1",): 2})

    assert shown(metrics, policy="1") == 3


def test_a_counter_of_others_never_goes_back(metrics: HttpMetrics) -> None:
    """Not where they leave a label out, cannot tell, or are gone."""
    gone = Owner(100)
    answers: list[Mapping[tuple[str], float] | None] = [{("a",): 12}, None, {}, {("a",): 10}]
    metrics.add_callback(EVICTIONS, lambda: answers.pop())
    metrics.add_callback(EVICTIONS, gone.count)

    told = [shown(metrics, EVICTIONS, policy="a") for _ in range(4)]
    del gone
    gc.collect()
    answers.append({("a",): 13})

    assert told == [10, 10, 10, 12]
    assert shown(metrics, EVICTIONS, policy="a") == 13
    assert shown(metrics, EVICTIONS, policy="default") == 100


def test_a_source_may_be_a_method_of_an_object_that_cannot_be_watched(
    metrics: HttpMetrics,
) -> None:
    """It is kept then, as a function is."""

    class Slotted:
        __slots__ = ()

        def count(self) -> Mapping[tuple[str], int]:
            return {("default",): 3}

    metrics.add_callback(KEYS, Slotted().count)

    assert shown(metrics, policy="default") == 3


@pytest.mark.anyio
async def test_the_tasks_of_the_event_loop_are_shown(
    metrics: HttpMetrics, anyio_backend_name: str
) -> None:
    """Those of asyncio; trio does not tell, nor does a thread of its own."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        running = shown(metrics, "tokenpulse_asyncio_tasks")
        tasks.cancel_scope.cancel()

    assert (running or 0) >= 2 if anyio_backend_name == "asyncio" else running is None
