"""Samples of the metrics: differences, gaps, ranks and bounded steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.dashboard import Sampler
from tokenpulse_mw.dashboard.history import OTHERS

from ..support.steps import steps_of
from .board import INTERVAL, Board, exchange


def requests_of(board: Board, name: str, kind: str = "provider", count: int = 4) -> Any:
    """Return the requests of the last slots."""
    history = board.dashboard.sampler.history
    assert history is not None
    return history.counts(kind, name, "requests", history.last(count))


@pytest.mark.anyio
async def test_sample_has_the_difference_since_the_last_one() -> None:
    """The first sample is a gap, because nothing is known about the time before it."""
    board = Board()
    await board.step(exchange())
    await board.step(exchange(), exchange())
    await board.step()

    assert requests_of(board, "claude") == [None, None, 2, 0]
    assert requests_of(board, "/chat", "route") == [None, None, 2, 0]
    assert requests_of(board, "claude/m", "model") == [None, None, 2, 0]


@pytest.mark.anyio
async def test_first_slot_of_a_process_may_be_short() -> None:
    """The difference since the start is all that the process has counted in the slot."""
    board = Board()
    board.clocks.advance(9)
    await board.step(seconds=1)
    await board.step(exchange(), seconds=5)
    await board.step(exchange())

    assert requests_of(board, "claude", count=3) == [None, 1, 1]


@pytest.mark.anyio
async def test_late_sample_is_a_gap() -> None:
    """A difference over another time than a slot belongs to none."""
    board = Board()
    await board.step()
    await board.step(exchange())
    await board.step(exchange(), seconds=4 * INTERVAL)
    await board.step(exchange())

    assert requests_of(board, "claude", count=6) == [1, None, None, None, None, 1]


@pytest.mark.anyio
async def test_sample_long_after_the_end_of_its_slot_is_a_gap() -> None:
    """It has requests of the next slot, which is a gap too, because these are missing there."""
    board = Board()
    await board.step()
    await board.step(exchange(), seconds=INTERVAL + 8)
    await board.step(exchange(), seconds=INTERVAL - 8)
    await board.step(exchange())

    assert requests_of(board, "claude", count=3) == [None, None, 1]


@pytest.mark.anyio
async def test_reset_of_the_counters_is_a_gap() -> None:
    """Counters that fall or vanish give no difference."""
    board = Board()
    await board.step(exchange())
    await board.step(exchange())
    board.metrics.clear()
    await board.step(exchange())
    await board.step(exchange())
    board.metrics.clear()
    await board.step(exchange(), exchange(provider="gemini"))

    assert requests_of(board, "claude", count=5) == [None, 1, None, 1, None]


@pytest.mark.anyio
async def test_second_sample_of_a_slot_changes_nothing() -> None:
    """A task that wakes up early counts no slot twice."""
    board = Board()
    await board.step()
    await board.step(exchange(), seconds=INTERVAL + 1)
    await board.step(exchange(), seconds=1)
    await board.step(exchange(), seconds=INTERVAL - 2)

    assert requests_of(board, "claude", count=3) == [None, 1, 2]


@pytest.mark.anyio
async def test_clock_that_is_set_back_begins_a_new_history() -> None:
    """Slots of a later time would hide those that follow."""
    board = Board()
    await board.step()
    await board.step(exchange())
    board.clocks.wall -= 3600
    await board.step()
    await board.step(exchange())

    assert requests_of(board, "claude", count=3) == [None, None, 1]


@pytest.mark.anyio
async def test_all_kinds_of_rows_are_counted() -> None:
    """Errors, limits, truncated streams, tokens, cost, faults and histograms have columns."""
    board = Board()
    await board.step()
    await board.step(
        exchange(cost_nanos=5 * 10**8, cost_source="reported", time_to_first_token=0.5),
        exchange(outcome="truncated", usage_source="missing", usage=None),
        exchange(status=503, fault="provider"),
        exchange(status=429, fault="policy"),
        exchange(status=404, fault="client"),
    )
    history = board.dashboard.sampler.history
    assert history is not None
    slots = history.known(history.last(4))

    def total(count: str, kind: str = "provider", name: str = "claude") -> float | None:
        return history.total(kind, name, count, slots)

    assert total("requests") == 5
    assert (total("errors"), total("limited"), total("truncated")) == (1, 1, 1)
    assert (total("llm_requests"), total("usage_missing")) == (2, 1)
    assert (total("input_tokens"), total("output_tokens"), total("cost_usd")) == (100, 20, 0.5)
    assert (total("policy"), total("provider"), total("network")) == (1, 1, 0)
    assert (total("errors", "route", "/chat"), total("limited", "route", "/chat")) == (1, 1)
    assert total("requests", "model", "claude/m") == 2
    assert history.quantile("provider", "claude", "duration", 0.5, slots) == pytest.approx(0.55)
    assert history.quantile("model", "claude/m", "ttft", 0.5, slots) == pytest.approx(0.55)
    assert history.quantile("route", "/chat", "ttfb", 0.5, slots) == pytest.approx(0.55)


@pytest.mark.anyio
async def test_requests_in_progress_are_sampled() -> None:
    """The value is that at the end of the slot."""
    board = Board()
    await board.step()
    board.metrics.on_open()
    await board.step()

    history = board.dashboard.sampler.history
    assert history is not None
    assert history.in_flight(history.last(2)) == [None, 1]


@pytest.mark.anyio
async def test_busy_name_replaces_the_least_used_one() -> None:
    """Beyond the maximum, names with most requests have rings; the others share one."""
    board = Board(options={"max_names": 2})
    await board.step()
    await board.step(exchange(route="/a"), exchange(route="/b"), exchange(route="/b"))
    await board.step(exchange(route="/c"))
    assert requests_of(board, OTHERS, "route", 1) == [1]

    await board.step(*[exchange(route="/c")] * 9, exchange(route="/d"))
    history = board.dashboard.sampler.history
    assert history is not None
    assert history.tables["route"].names == ["/b", "/c"]
    assert requests_of(board, "/c", "route", 2) == [None, 9]
    assert requests_of(board, OTHERS, "route", 2) == [1, 1]

    await board.step(exchange(route="/e", cost_source=None), exchange(route="/f"))
    assert requests_of(board, OTHERS, "route", 1) == [2]


@pytest.mark.anyio
async def test_other_buckets_begin_a_new_history() -> None:
    """Counts of other buckets cannot be compared."""
    board = Board()
    await board.step()
    await board.step(exchange())
    board.metrics = HttpMetrics(CollectorRegistry())
    await board.step()

    assert requests_of(board, "claude", count=1) == [None]


@pytest.mark.anyio
async def test_failed_sample_is_logged_and_retried(
    caplog: pytest.LogCaptureFixture, anyio_backend: str
) -> None:
    """An error of the metrics neither ends the task nor repeats in the log."""
    board, calls = Board(), list[int]()

    async def read() -> Sequence[Any]:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("no such file")
        return board.metrics.series()

    sampler = Sampler(read, interval=0.001)
    done = anyio.Event()

    def sampled() -> None:
        if len(calls) > 3:
            done.set()

    with caplog.at_level(logging.INFO, "tokenpulse_mw"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sampler.run, sampled)
            with anyio.fail_after(60):
                await done.wait()
            tasks.cancel_scope.cancel()

    assert [record.getMessage()[:28] for record in caplog.records] == [
        "sample of the metrics failed",
        "sample of the metrics succee",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be a number of seconds above 0"),
        ({"slots": 1}, "slots must be an integer of at least 2"),
        ({"max_names": 0}, "max_names must be an integer of at least 1"),
    ],
)
def test_invalid_option_is_rejected(options: dict[str, Any], message: str) -> None:
    """The constructor validates."""
    with pytest.raises(ValueError, match=message):
        Sampler(Board().metrics.series, **options)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_steps_are_short_with_thousands_of_series(anyio_backend: str) -> None:
    """With 2,000 series of each family, other tasks run after at most some hundred calls."""
    if anyio_backend == "trio":
        pytest.skip("the steps are the same")
    board = Board(metrics=HttpMetrics(CollectorRegistry()))
    for number in range(2000):
        board.metrics.on_open()
        board.metrics(exchange(route=f"/{number}", provider=f"p{number % 60}"))
    await board.step()
    for number in range(2000):
        board.metrics.on_open()
        board.metrics(exchange(route=f"/{number}", provider=f"p{number % 60}"))
    board.clocks.advance(INTERVAL)

    steps = await steps_of(board.dashboard.sampler.sample)

    assert steps.total > 50_000
    assert steps.longest < 2500
