"""Limit of concurrent requests per key."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tokenpulse_mw import Decision, InFlight, ZoneInFlight

New = Callable[[int], InFlight]


@pytest.fixture(params=["process", "file"])
def new(request: pytest.FixtureRequest, tmp_path: Path) -> New:
    """Return a function that creates a limiter, of this process or in a file."""
    return InFlight if request.param == "process" else partial(ZoneInFlight, path=tmp_path / "a")


def test_request_without_a_free_slot_is_rejected(new: New) -> None:
    """The wait is a second, since it is unknown when a slot becomes free."""
    slots = new(2)

    assert slots.hit("a") == Decision(True, 2, 1, 0.0, 0.0)
    assert slots.hit("a") == Decision(True, 2, 0, 0.0, 0.0)
    assert slots.hit("a") == Decision(False, 2, 0, 0.0, 1.0)


def test_released_slot_is_free(new: New) -> None:
    """A slot can be taken again after every release."""
    slots = new(1)

    for _ in range(3):
        assert slots.hit("a").allowed
        assert not slots.hit("a").allowed
        slots.release("a")


def test_keys_have_separate_slots(new: New) -> None:
    """A key without a free slot does not affect another key."""
    slots = new(1)

    assert slots.hit("a").allowed
    assert slots.hit("b").allowed


def test_peek_takes_no_slot(new: New) -> None:
    """`peek` returns the decision on the next request."""
    slots = new(1)

    assert slots.peek("a") == slots.peek("a") == Decision(True, 1, 1, 0.0, 0.0)
    slots.hit("a")
    assert slots.peek("a") == Decision(False, 1, 0, 0.0, 1.0)


def test_request_may_take_several_slots(new: New) -> None:
    """A request takes all of its slots, or none if too few are free."""
    slots = new(5)

    assert slots.hit("a", 3) == Decision(True, 5, 2, 0.0, 0.0)
    assert slots.hit("a", 3) == Decision(False, 5, 2, 0.0, 1.0)
    assert slots.hit("a", 2).allowed
    slots.release("a", 3)
    assert slots.peek("a").remaining == 3


def test_cost_above_the_limit_has_an_infinite_wait(new: New) -> None:
    """A request that needs more slots than the limit is never allowed."""
    assert new(2).hit("a", 3) == Decision(False, 2, 2, 0.0, math.inf)


def test_cost_0_is_always_allowed(new: New) -> None:
    """A cost of 0 needs no free slot and stores no key."""
    slots = new(1)

    assert slots.hit("a", 0) == Decision(True, 1, 1, 0.0, 0.0)
    assert len(slots) == 0
    slots.hit("a")
    assert slots.hit("a", 0) == Decision(True, 1, 0, 0.0, 0.0)


def test_key_without_requests_in_progress_is_removed(new: New) -> None:
    """The number of keys is that of the keys with requests in progress."""
    slots = new(2)

    for key in range(1000):
        slots.hit(key)
        slots.hit(key)
        slots.release(key)
        assert len(slots) == 1
        slots.release(key)

    assert len(slots) == 0


def test_release_never_exceeds_the_taken_slots(new: New) -> None:
    """A release of too many slots leaves the limit free and no more."""
    slots = new(2)
    slots.hit("a")

    slots.release("a", 5)
    slots.release("b")

    assert slots.peek("a").remaining == slots.peek("b").remaining == 2


def test_has_room_is_what_hit_would_decide(new: New) -> None:
    """It takes no slot."""
    slots = new(2)
    slots.hit("a")

    assert [slots.has_room("a", cost) for cost in (0, 1, 2, 1)] == [True, True, False, True]


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1", "many", None, True, 10**9])
def test_invalid_limit_is_rejected(limit: int, new: New) -> None:
    """A limit is an integer from 1 to 1,000,000."""
    with pytest.raises(ValueError, match=f"limit must be an integer from 1 to .*, got {limit!r}"):
        new(limit)


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
def test_invalid_cost_is_rejected(cost: int, new: New) -> None:
    """A cost is an integer of at least 0, when slots are taken and when they are released."""
    slots = new(1)
    for method in (slots.hit, slots.peek, slots.release):
        with pytest.raises(ValueError, match=f"cost must be .* at least 0, got {cost!r}"):
            method("a", cost)


def test_cleared_slots_are_free(new: New) -> None:
    """A clear releases the slots of all keys."""
    slots = new(1)
    slots.hit("a")

    slots.clear()

    assert (len(slots), slots.clears) == (0, 1)
    assert slots.hit("a").allowed
