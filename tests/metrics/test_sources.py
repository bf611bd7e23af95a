"""Sources: values that are looked up when somebody reads them."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import anyio
import pytest

from tokenpulse_mw import HttpMetrics

KEYS = "tokenpulse_rate_limit_keys"


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
    metrics.sample(KEYS, owner.count)

    before = shown(metrics, policy="default")
    owner.keys = 5

    assert (before, shown(metrics, policy="default")) == (3, 5)
    assert b'tokenpulse_rate_limit_keys{policy="default"} 5.0\n' in metrics.render()


def test_what_several_sources_say_is_added_up(metrics: HttpMetrics) -> None:
    """Two applications on one registry have keys of the same policy."""
    first, second = Owner(3), Owner(4)
    metrics.sample(KEYS, first.count)
    metrics.sample(KEYS, second.count)
    metrics.sample(KEYS, lambda: {("other",): 1})

    assert (shown(metrics, policy="default"), shown(metrics, policy="other")) == (7, 1)


def test_a_source_is_forgotten_with_its_object(metrics: HttpMetrics) -> None:
    """An application that is gone leaves a 0, and is not kept alive by its metrics."""
    owner = Owner(3)
    metrics.sample(KEYS, owner.count)
    assert shown(metrics, policy="default") == 3

    del owner
    gc.collect()

    assert shown(metrics, policy="default") == 0


def test_a_source_that_fails_costs_nothing_but_its_family(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps what it showed last; the failure is counted each time and logged once."""
    answers: list[Mapping[tuple[str], int]] = [{("default",): 3}]
    metrics.sample(KEYS, lambda: answers.pop())

    first = shown(metrics, policy="default")
    second, third = shown(metrics, policy="default"), shown(metrics, policy="default")

    assert (first, second, third) == (3, 3, 3)
    assert shown(metrics, "tokenpulse_self_errors_total", component="metrics") == 3
    assert len(caplog.records) == 1


def test_a_family_that_is_counted_has_no_source(metrics: HttpMetrics) -> None:
    """The error names those that have."""
    with pytest.raises(ValueError, match=r"no family 'tokenpulse_http_requests_total'.*limit_keys"):
        metrics.sample("tokenpulse_http_requests_total", dict)


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
