"""Concurrent requests of several workers, whose slots are in a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tokenpulse_mw import Decision, ZoneInFlight
from tokenpulse_mw.ratelimit.zone.table import Address

from ...support.clock import FakeClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file in a folder of this user."""
    return tmp_path / "slots"


def lock_of(slots: ZoneInFlight, key: object) -> Address:
    """Lock the set of `key`, as a worker that was stopped, and return its address."""
    table = slots._connection.opened
    assert table is not None
    address = table.addresses.add(key)
    assert table.file.locks.acquire(address.set, address.lock)
    return address


def unlock(slots: ZoneInFlight, address: Address) -> None:
    """Release a set."""
    table = slots._connection.opened
    assert table is not None
    table.file.locks.release(address.unlock)


def test_workers_share_the_slots_of_a_key(path: Path) -> None:
    """A slot that one worker releases is free for another."""
    first, second = ZoneInFlight(3, path=path), ZoneInFlight(3, path=path)

    assert first.hit("a", 2).remaining == 1
    assert second.peek("a").remaining == 1
    assert second.hit("a").remaining == 0
    assert not second.hit("a").allowed
    first.release("a")
    assert second.hit("a").allowed
    assert (len(first), len(second)) == (1, 1)


def test_slots_of_a_killed_worker_are_free(path: Path) -> None:
    """They are free at once, although nothing released them."""
    slots = ZoneInFlight(3, path=path)
    slots.hit("a")
    ready, report = os.pipe()
    child = os.fork()
    if child == 0:
        slots.hit("a", 2)
        os.write(report, b".")
        signal.pause()
    os.read(ready, 1)
    assert not slots.hit("a").allowed
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert slots.hit("a") == Decision(True, 3, 1, 0.0, 0.0)


def test_new_worker_does_not_inherit_the_slots_of_a_killed_one(path: Path) -> None:
    """A worker that gets the place of an ended one begins without requests in progress."""
    slots = ZoneInFlight(3, path=path)
    child = os.fork()
    if child == 0:
        slots.hit("a", 3)
        os._exit(0)
    os.waitpid(child, 0)

    other = ZoneInFlight(3, path=path)

    assert other.peek("a").remaining == slots.peek("a").remaining == 3


def test_clear_releases_the_slots_of_this_worker_only(path: Path) -> None:
    """Requests of other workers are still in progress."""
    first, second = ZoneInFlight(3, path=path), ZoneInFlight(3, path=path)
    first.hit("a")
    second.hit("a")

    first.clear()

    assert (len(first), first.clears) == (0, 1)
    assert second.peek("a").remaining == 2


def test_place_of_a_released_key_is_used_again(path: Path) -> None:
    """Keys without requests in progress use no place."""
    first, second = (ZoneInFlight(1, path=path, max_keys=4) for _ in range(2))  # one set

    for key in range(100):
        assert first.hit(key).allowed
        assert not second.hit(key).allowed
        first.release(key)


def test_full_set_leaves_each_worker_its_share(path: Path) -> None:
    """Without a place for a key, a worker allows its share of the limit, and at least one."""
    full, other = (ZoneInFlight(4, path=path, max_keys=4) for _ in range(2))
    for key in range(8):
        full.hit(key)

    assert [other.hit("new").allowed for _ in range(3)] == [True, True, False]
    other.release("new", 2)
    assert other.hit("new").allowed
    full.release(0)
    assert other.hit("new").allowed
    assert full.peek("new").remaining == 2  # now in the file


def test_places_of_killed_workers_are_used_again(path: Path) -> None:
    """A full set of a worker that has ended is empty."""
    slots = ZoneInFlight(1, path=path, max_keys=4)
    child = os.fork()
    if child == 0:
        for key in range(8):
            slots.hit(key)
        os._exit(0)
    os.waitpid(child, 0)

    assert slots.hit("new").allowed
    assert slots.peek("new").remaining == 0


def test_stopped_worker_leaves_others_their_share(path: Path) -> None:
    """While a set is locked, each of two workers takes half of the free slots."""
    stopped, other = (ZoneInFlight(6, path=path) for _ in range(2))
    stopped.hit("a", 2)
    address = lock_of(stopped, "a")

    decisions = [other.hit("a") for _ in range(3)]
    assert [decision.allowed for decision in decisions] == [True, True, False]
    assert (decisions[2].degraded, decisions[2].retry_after) == (True, 1.0)
    assert not other.hit("a", 5).degraded
    unlock(stopped, address)

    assert other.hit("a").allowed
    assert stopped.peek("a").remaining == 1
    other.release("a", 3)
    assert stopped.peek("a").remaining == 4


def test_release_needs_no_lock(path: Path) -> None:
    """A stopped worker does not keep the slots of others taken."""
    stopped, other = (ZoneInFlight(6, path=path) for _ in range(2))
    other.hit("a", 2)
    address = lock_of(stopped, "a")

    other.release("a")
    unlock(stopped, address)

    assert stopped.peek("a").remaining == 5


def test_lost_file_is_replaced_by_the_counts_of_the_process(path: Path, clock: FakeClock) -> None:
    """A request does not fail; in a new file, the requests in progress count again."""
    slots = ZoneInFlight(3, path=path, clock=clock)
    slots.hit("a")
    os.truncate(path, 0)

    assert slots.hit("a") == Decision(True, 3, 1, 0.0, 0.0, degraded=True)
    slots.release("a")
    path.unlink()
    clock.advance(1)
    assert slots.hit("a") == Decision(True, 3, 1, 0.0, 0.0)
    assert ZoneInFlight(3, path=path).peek("a").remaining == 1
    os.truncate(path, 0)
    slots.clear()
    assert slots.peek("a").remaining == 3


def test_failing_lock_does_not_fail_the_request(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process then limits its own requests."""
    slots = ZoneInFlight(1, path=path)

    def fail(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("tokenpulse_mw.ratelimit.zone.locks.fcntl.fcntl", fail)

    assert [slots.hit("a").allowed for _ in range(2)] == [True, False]


def test_invalid_arguments_are_rejected(path: Path) -> None:
    """The clock is a function, and `max_keys` is an integer."""
    with pytest.raises(ValueError, match="clock must be a function"):
        ZoneInFlight(1, path=path, clock=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_keys must be an integer from 1"):
        ZoneInFlight(1, path=path, max_keys=0)
    with pytest.raises(ValueError, match="key of a shared limiter must be"):
        ZoneInFlight(1, path=path).hit(1.5)


def test_forked_worker_has_no_requests_in_progress(path: Path) -> None:
    """Those of its parent are not released by the child."""
    slots = ZoneInFlight(3, path=path)
    slots.hit("a")
    parent = slots._connection.opened  # as in another process

    slots.reset_after_fork()

    assert (len(slots), parent is slots._connection.opened) == (0, False)
    assert slots.hit("a").allowed
