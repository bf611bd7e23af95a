"""Limiter whose counts are in a file: decisions, threads, outages of the file and of its locks."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from tokenpulse_mw import (
    Decision,
    ExchangeMiddleware,
    HttpMetrics,
    Limiter,
    Policy,
    RateLimitMiddleware,
    ZoneInFlight,
    ZoneLimiter,
)
from tokenpulse_mw.ratelimit import check_policies, quotas
from tokenpulse_mw.ratelimit.zone import connection, debts, locks
from tokenpulse_mw.ratelimit.zone.table import WindowTable

from ...support.clock import FakeClock
from ...support.forks import run_in_child

every_strategy = pytest.mark.parametrize("strategy", ["fixed-window", "gcra"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file in a folder of this user."""
    return tmp_path / "limit"


def limiter_of(
    path: Path, clock: FakeClock, limit: str = "5/minute", **options: Any
) -> ZoneLimiter:
    """Return a small limiter."""
    return ZoneLimiter(limit, path=path, clock=clock, **{"max_keys": 8, **options})


def table_of(limiter: ZoneLimiter) -> WindowTable:
    """Return the table in the file."""
    table = limiter._connection.table(limiter.clock())
    assert table is not None
    return table


@contextmanager
def locked(limiter: ZoneLimiter, key: str) -> Iterator[None]:
    """Have the lock of the set of `key`, as a worker that was stopped."""
    table = table_of(limiter)
    address = table.addresses.add(key)
    assert table.file.locks.acquire(address.set, address.lock)
    try:
        yield
    finally:
        table.file.locks.release(address.unlock)


def perform(limiter: Limiter, operation: str, key: str, cost: int, since: float) -> Decision | None:
    """Perform an operation, and return its decision, if it has one."""
    if operation in ("hit", "peek"):
        decision: Decision = getattr(limiter, operation)(key, cost)
        return decision
    if operation == "charge":
        limiter.charge(key, cost - 3, since=since)
    elif operation == "adopt":
        limiter.adopt(key, Limiter("5/minute", clock=limiter.clock).hit(key, min(cost, 5)))
    elif operation == "reset":
        limiter.reset(key)
    else:
        limiter.clear()
    return None


@every_strategy
@given(
    start=st.floats(0, 1e7),
    traffic=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["hit", "hit", "hit", "peek", "charge", "adopt", "reset", "clear"]),
            st.sampled_from("abc"),
            st.integers(0, 6),
            st.floats(0, 30),
        )
    ),
)
def test_several_handles_decide_as_one_limiter(
    strategy: str, start: float, traffic: list[tuple[int, str, str, int, float]]
) -> None:
    """Any sequence of operations in several workers has the results of one table."""
    clock = FakeClock(start)
    model = Limiter("5/minute", strategy=strategy, clock=clock)
    with tempfile.TemporaryDirectory() as folder:
        handles = [limiter_of(Path(folder, "a"), clock, strategy=strategy) for _ in range(3)]
        for number, operation, key, cost, pause in traffic:
            results = [
                perform(limiter, operation, key, cost, clock() - pause)
                for limiter in (model, handles[number])
            ]
            assert results[0] == results[1]
            clock.advance(pause)


def test_gate_uses_it_as_a_limiter_of_this_process(path: Path, clock: FakeClock) -> None:
    """Two workers with the same file allow the limit together."""
    clients = [
        TestClient(
            RateLimitMiddleware(
                PlainTextResponse("hi"), policies=[Policy(limiter_of(path, clock, "3/minute"))]
            )
        )
        for _ in range(2)
    ]

    statuses = [clients[number % 2].get("/").status_code for number in range(5)]

    assert statuses == [200, 200, 200, 429, 429]


def test_policies_with_the_same_file_are_rejected(path: Path, clock: FakeClock) -> None:
    """They would count every request twice."""
    policies = [Policy(limiter_of(path, clock), name=name) for name in ("first", "second")]

    with pytest.raises(ValueError, match="different prefixes, or paths"):
        check_policies(policies)
    check_policies([policies[0], Policy(ZoneInFlight(5, path=path.with_name("b")), name="b")])


def test_sliding_window_is_rejected(path: Path) -> None:
    """The error names the strategies that a file supports."""
    with pytest.raises(
        ValueError,
        match="strategy must be one of fixed-window, gcra, got 'sliding-window-counter'",
    ):
        ZoneLimiter("5/minute", path=path, strategy="sliding-window-counter")


def test_has_room_is_what_hit_would_decide(path: Path, clock: FakeClock) -> None:
    """It counts nothing."""
    limiter = ZoneLimiter("2/minute", path=path, clock=clock)
    limiter.hit("a")

    assert [limiter.has_room("a", cost) for cost in (0, 1, 2, 1)] == [True, True, False, True]


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
def test_invalid_cost_is_rejected(cost: int, path: Path, clock: FakeClock) -> None:
    """A cost is an integer of at least 0."""
    limiter = limiter_of(path, clock)

    for method in (limiter.hit, limiter.peek):
        with pytest.raises(ValueError, match=f"cost must be .* at least 0, got {cost!r}"):
            method("a", cost=cost)


def test_key_of_another_type_is_rejected(path: Path, clock: FakeClock) -> None:
    """An object could be equal in one worker and differ in another."""
    with pytest.raises(ValueError, match="key of a shared limiter must be bytes, str, int"):
        limiter_of(path, clock).hit(1.5)


def test_length_is_that_of_all_workers(path: Path, clock: FakeClock) -> None:
    """Keys whose window has ended do not count."""
    first, second = limiter_of(path, clock), limiter_of(path, clock)
    first.hit("a")
    clock.advance(30)
    second.hit("b")

    assert len(first) == len(second) == 2
    clock.advance(30)
    assert len(first) == 1


@pytest.mark.anyio
async def test_budgets_list_the_keys_of_this_worker(path: Path, clock: FakeClock) -> None:
    """The usage is that of all workers; the file does not have the keys of other workers."""
    first, second = limiter_of(path, clock), limiter_of(path, clock)
    first.hit("a", 1)
    second.hit("a", 3)
    second.hit("b", 4)

    assert await quotas([Policy(first, tokens=1)])() == [("a", 4, 5)]


def test_keys_that_are_listed_are_bounded(path: Path, clock: FakeClock) -> None:
    """A process stores `max_keys` keys in readable form, those that it has used last."""
    limiter = limiter_of(path, clock, max_keys=2)

    for key in "abc":
        limiter.hit(key)

    assert list(limiter) == ["b", "c"]


@pytest.mark.parametrize("handles", [1, 8])
def test_threads_get_exactly_the_limit(handles: int, path: Path, clock: FakeClock) -> None:
    """Threads may share a limiter, or have one each."""
    limiters = [limiter_of(path, clock, "500/minute") for _ in range(handles)]
    allowed: list[bool] = []

    def send(limiter: ZoneLimiter) -> None:
        allowed.extend(limiter.hit("a").allowed for _ in range(100))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "_PATIENCE", 60.0)
        threads = [
            threading.Thread(target=send, args=(limiters[number % handles],)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert (len(allowed), sum(allowed)) == (800, 500)


def test_deleted_file_is_created_again_for_all_workers(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Within a second all workers share the new file, and it is logged."""
    caplog.set_level(logging.INFO)
    limiters = [limiter_of(path, clock) for _ in range(2)]
    limiters[0].hit("a", 5)
    clears = limiters[0].clears
    path.unlink()
    clock.advance(1)

    assert [limiter.hit("a").remaining for limiter in limiters] == [4, 3]
    assert limiters[0].clears > clears  # hits in the deleted file are not refunded
    assert [record.getMessage() for record in caplog.records[:2]] == [
        f"limit is not shared with other workers: path={path} "
        "error=the file was deleted or replaced",
        f"limit is shared with other workers again: path={path} (seconds=0 failures=1)",
    ]


def test_truncated_file_is_replaced_by_the_table_of_the_process(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A request does not fail, and the process is not killed; it is logged once."""
    limiter = limiter_of(path, clock)
    limiter.hit("a", 5)
    os.truncate(path, 0)

    decisions = [limiter.hit("a") for _ in range(6)]
    limiter.charge("b", 2)
    limiter.adopt("c", decisions[4])

    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert all(decision.degraded for decision in decisions)
    assert [limiter.peek(key).remaining for key in "bc"] == [3, 0]
    assert (len(limiter), sorted(map(str, limiter))) == (3, ["a", "b", "c"])
    limiter.reset("a")
    assert limiter.peek("a").remaining == 5
    limiter.clear()
    assert len(limiter) == 0
    clock.advance(5)
    assert limiter.hit("a").degraded
    assert len(caplog.records) == 1

    path.unlink()
    clock.advance(1)
    decision = limiter.hit("a")
    assert (decision.remaining, decision.degraded) == (4, False)


def test_decisions_without_the_file_are_counted_as_errors(
    path: Path, clock: FakeClock, metrics: HttpMetrics
) -> None:
    """As during an outage of a storage, the label `decision` is "error"."""
    limited = RateLimitMiddleware(
        PlainTextResponse("hi"), policies=[Policy(limiter_of(path, clock), name="zone")]
    )
    client = TestClient(ExchangeMiddleware(limited, observers=[metrics]))
    client.get("/")
    os.truncate(path, 0)
    client.get("/")

    counts = [
        metrics.registry.get_sample_value(
            "tokenpulse_rate_limit_decisions_total", {"policy": "zone", "decision": decision}
        )
        for decision in ("allowed", "error")
    ]
    assert counts == [1, 1]


def test_file_that_was_replaced_by_a_foreign_one_is_not_used(path: Path, clock: FakeClock) -> None:
    """The process limits by its own table, and leaves the foreign file as it is."""
    limiter = limiter_of(path, clock)
    path.unlink()
    path.write_text("something else")
    clock.advance(1)

    assert limiter.hit("a").degraded
    assert path.read_text() == "something else"


def test_truncated_file_is_found_at_the_check(path: Path, clock: FakeClock) -> None:
    """A file that was truncated to another size is not mapped again."""
    limiter = limiter_of(path, clock)
    os.truncate(path, 4096)
    clock.advance(1)

    assert limiter.hit("a").degraded


def test_failing_lock_is_replaced_by_the_table_of_the_process(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system does not fail the request."""
    limiter = limiter_of(path, clock)
    limiter.hit("a")

    def fail(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(locks.fcntl, "fcntl", fail)
        assert limiter.hit("a") == limiter.peek("a")._replace(remaining=4)
        assert limiter.peek("a").degraded
    clock.advance(1)

    assert not limiter.hit("a").degraded


@every_strategy
def test_stopped_worker_leaves_others_their_share(
    strategy: str, path: Path, clock: FakeClock
) -> None:
    """While a set is locked, each of three workers allows a third of the remaining requests.

    A rejection may be repeated soon. The other sets are not affected, and what was allowed is
    counted when the lock is released.
    """
    stopped, *others = [limiter_of(path, clock, "20/minute", strategy=strategy) for _ in range(3)]
    stopped.hit("a", 5)
    with locked(stopped, "a"):
        decisions = [[limiter.hit("a") for _ in range(7)] for limiter in others]
        assert [sum(decision.allowed for decision in row) for row in decisions] == [5, 5]
        assert decisions[0][4].remaining == others[0].peek("a").remaining == 10
        rejection = decisions[0][5]
        assert (rejection.degraded, rejection.retry_after) == (True, locks.PAUSE)
        assert others[0].hit("a", 21).retry_after == float("inf")
        assert others[0].hit("a", 0).allowed

    assert [limiter.peek("a").remaining for limiter in others] == [10, 5]
    assert not others[0]._debts.count


def test_charges_are_owed_while_a_set_is_locked(path: Path, clock: FakeClock) -> None:
    """Refunds and charges reach the file when the lock is released, within their window."""
    stopped, other, third = (limiter_of(path, clock, "9/minute") for _ in range(3))
    other.hit("a", 4)
    with locked(stopped, "a"):
        other.charge("a", -3, since=clock())
        other.charge("a", 1)
        other.adopt("a", other.peek("a"))
        assert other.peek("a").remaining == 7
    assert other.peek("a").remaining == third.peek("a").remaining == 7
    with locked(stopped, "a"):
        third.charge("a", 2)
        clock.advance(60)
        assert third.peek("a").remaining == 9
        third.charge("a", 1)
        assert third.peek("a").remaining == 8
        clock.advance(60)
    assert third.peek("a").remaining == 9


def test_reset_and_clear_need_no_lock(path: Path, clock: FakeClock) -> None:
    """A stopped worker does not prevent them."""
    stopped, other = limiter_of(path, clock), limiter_of(path, clock)
    other.hit("a", 5)
    with locked(stopped, "a"):
        other.reset("a")
        assert other.peek("a").remaining == 5
        other.hit("a", 2)
        other.clear()
        assert other.peek("a").remaining == 5


def test_owed_keys_are_bounded(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that could not be counted later is rejected."""
    monkeypatch.setattr(debts, "_MAX_DEBTS", 1)
    stopped, other = (limiter_of(path, clock, max_keys=4) for _ in range(2))
    with locked(stopped, "a"):  # the only set
        assert [other.hit(key).allowed for key in "aba"] == [True, False, True]


def test_lock_that_is_released_in_time_is_waited_for(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short wait for another worker degrades no decision."""
    busy, waiting = limiter_of(path, clock), limiter_of(path, clock)
    with ExitStack() as lock:
        lock.enter_context(locked(busy, "a"))
        monkeypatch.setattr(locks, "_PATIENCE", 60.0)
        monkeypatch.setattr(os, "sched_yield", lock.close)  # the other worker runs meanwhile

        assert waiting.hit("a") == Decision(True, 5, 4, 60.0, 0.0)


def test_sets_that_are_not_waited_for_are_bounded(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sets are waited for again when too many are locked."""
    monkeypatch.setattr(locks, "_MAX_PAUSED", 1)
    stopped, other = (limiter_of(path, clock, max_keys=80) for _ in range(2))
    for key in "abcdefgh":
        with locked(stopped, key):
            other.hit(key)

    assert len(table_of(other).file.locks._paused) == 1


def test_forked_worker_has_a_slot_of_its_own(path: Path, clock: FakeClock) -> None:
    """A child opens the file again, and leaves the locks and debts of its parent as they are."""
    limiter, stopped = limiter_of(path, clock), limiter_of(path, clock)
    with locked(stopped, "a"):
        limiter.hit("a")

    def hit() -> None:
        assert limiter.hit("a").remaining == 4
        assert table_of(limiter).file.locks.slot not in (0, 1)

    run_in_child(hit)

    assert table_of(limiter).file.locks.live_slots() == 2
    assert limiter.hit("a").remaining == 2


def test_hook_for_forks_opens_the_file_again(path: Path, clock: FakeClock) -> None:
    """It has no effect after the limiter was deleted."""
    limiter, parent = limiter_of(path, clock), limiter_of(path, clock)
    parent.hit("a")

    connection._reset(weakref.ref(limiter))
    assert limiter.hit("a").remaining == 3
    deleted: weakref.ref[connection.Forkable] = weakref.ref(limiter)
    del limiter
    connection._reset(deleted)
    assert table_of(parent).file.locks.live_slots() == 1


def test_limiter_that_is_no_longer_used_frees_its_slot(path: Path, clock: FakeClock) -> None:
    """Hooks for forks do not keep a limiter alive."""
    limiter = limiter_of(path, clock)
    gc.disable()
    for _ in range(100):
        limiter_of(path, clock).hit("a", 0)
    gc.enable()

    assert table_of(limiter).file.locks.live_slots() == 1


@every_strategy
def test_damaged_counts_do_not_limit_for_long(strategy: str, path: Path, clock: FakeClock) -> None:
    """A time that no window can end at is that of a free place."""
    limiter = limiter_of(path, clock, strategy=strategy)
    limiter.hit("a")
    table = table_of(limiter)
    for ends in (1e300, float("nan")):
        for number in range(len(table._ends)):
            table._ends[number] = ends
        for number in range(len(table._cells.ends)):
            table._cells.ends[number] = 1e300
        assert limiter.hit("a").remaining == 4


def test_sample_has_the_keys_of_this_process(tmp_path: Path) -> None:
    """The file has only hashes; without the file, the keys are those of the local table."""
    limiter = ZoneLimiter("5/minute", path=tmp_path / "zone")
    for key in ("a", "b", "c"):
        limiter.hit(key)
    other = ZoneLimiter("5/minute", path=tmp_path / "zone")

    assert (limiter.sample(9), limiter.sample(2), other.sample(9)) == (
        ["a", "b", "c"],
        ["a", "c"],
        [],
    )
