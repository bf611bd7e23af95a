"""The limiter: fixed windows, and the promises of its bounded table."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import FakeClock
from tokenpulse_mw import Decision, Limiter


def test_a_client_may_use_its_limit_and_no_more(clock: FakeClock) -> None:
    """The request after the last that is allowed is told how long to wait."""
    limiter = Limiter("2/minute", clock=clock)

    assert limiter.hit("a") == Decision(True, 2, 1, 60.0, 0.0)
    clock.advance(10)
    assert limiter.hit("a") == Decision(True, 2, 0, 50.0, 0.0)
    assert limiter.hit("a") == Decision(False, 2, 0, 50.0, 50.0)


def test_a_window_begins_with_the_clients_first_request(clock: FakeClock) -> None:
    """It ends a whole window later, and what was refused in it is forgotten."""
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    limiter.hit("a")

    clock.advance(59.9)
    assert not limiter.hit("a").allowed
    clock.advance(0.1)
    assert limiter.hit("a").allowed


def test_clients_do_not_share(clock: FakeClock) -> None:
    """One client's limit is no other's; any hashable value is a client."""
    limiter = Limiter("1/minute", clock=clock)

    keys = ["a", b"a", ("a", 1), 7, None]

    assert all(limiter.hit(key).allowed for key in keys)
    assert not any(limiter.hit(key).allowed for key in keys)


def test_a_request_that_is_not_allowed_costs_nothing(clock: FakeClock) -> None:
    """After a refusal of much, little is still allowed."""
    limiter = Limiter("10/minute", clock=clock)

    assert limiter.hit("a", cost=11) == Decision(False, 10, 10, 60.0, 60.0)
    assert limiter.hit("a", cost=10) == Decision(True, 10, 0, 60.0, 0.0)


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
def test_what_is_no_cost_is_refused(cost: int) -> None:
    """Nobody can win back what was used, and only whole numbers are counted."""
    with pytest.raises(ValueError, match="cost must be a whole number and not negative, got"):
        Limiter("1/minute").hit("a", cost=cost)


def test_peeking_counts_nothing(clock: FakeClock) -> None:
    """It tells what would be decided: before, at and after the limit, and in the next window."""
    limiter = Limiter("1/minute", clock=clock)

    assert limiter.peek("a") == Decision(True, 1, 1, 60.0, 0.0)
    limiter.hit("a")
    assert limiter.peek("a") == Decision(False, 1, 0, 60.0, 60.0)
    clock.advance(60)
    assert limiter.peek("a") == Decision(True, 1, 1, 60.0, 0.0)
    assert limiter.hit("a").allowed


def test_a_key_can_be_reset(clock: FakeClock) -> None:
    """Whoever was limited starts anew, whether the table or the sketch had it."""
    limiter = Limiter("1/minute", max_keys=1, clock=clock)
    limiter.hit("a")
    limiter.reset("a")
    assert limiter.hit("a").allowed

    limiter.hit("b")
    assert not limiter.peek("a").allowed
    limiter.reset("a")
    assert limiter.hit("a").allowed


@given(
    max_keys=st.integers(1, 5),
    requests=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.floats(0, 30))),
)
def test_p1_the_table_is_bounded(max_keys: int, requests: list[tuple[int, int, float]]) -> None:
    """P1: never more than `max_keys` entries."""
    clock = FakeClock()
    limiter = Limiter("3/minute", max_keys=max_keys, clock=clock)

    for key, cost, passed in requests:
        clock.advance(passed)
        limiter.hit(key, cost)
        assert len(limiter) <= max_keys


@given(
    flood=st.lists(st.integers(0, 200), max_size=300),
    asks=st.lists(st.integers(0, 300), max_size=20),
)
def test_p2_a_limited_client_stays_limited(flood: list[int], asks: list[int]) -> None:
    """P2: whoever else arrives, and whether it goes on asking or waits in silence."""
    clock = FakeClock()
    limiter = Limiter("2/minute", max_keys=3, clock=clock)
    while limiter.hit("attacker").allowed:
        pass

    for number, key in enumerate(flood):
        clock.advance(59 / 300)
        limiter.hit(key)
        if number in asks:
            assert not limiter.hit("attacker").allowed

    assert not limiter.hit("attacker").allowed


@settings(max_examples=50)
@given(
    keys=st.sampled_from([3, 6, 60]),
    requests=st.lists(
        st.tuples(st.integers(0, 59), st.integers(1, 2), st.floats(0, 5)), max_size=400
    ),
)
def test_p3_rotating_addresses_wins_nothing(
    keys: int, requests: list[tuple[int, int, float]]
) -> None:
    """P3: no client gets more than its limit in a window, for many more than `max_keys` too."""
    clock = FakeClock()
    limiter = Limiter("3/minute", max_keys=3, clock=clock)
    allowed: dict[int, list[tuple[float, int]]] = defaultdict(list)
    opened: dict[int, float] = {}

    for number, cost, passed in requests:
        clock.advance(passed)
        key = number % keys
        if limiter.hit(key, cost).allowed:
            if clock() - opened.get(key, float("-inf")) >= 60:
                opened[key] = clock()
                allowed[key].clear()
            allowed[key].append((clock(), cost))
            assert sum(cost for _, cost in allowed[key]) <= 3


def test_p4_expired_entries_leave_two_at_a_time(clock: FakeClock) -> None:
    """P4: no request clears the whole table; a few requests later it is empty all the same."""
    limiter = Limiter("1/minute", max_keys=100, clock=clock)
    for key in range(100):
        limiter.hit(key)
    clock.advance(60)

    sizes = []
    for _ in range(5):
        limiter.hit("new")
        sizes.append(len(limiter))
        limiter.reset("new")

    assert sizes == [99, 97, 95, 93, 91]
    assert limiter.evictions == 0


def test_a_full_table_lets_the_oldest_window_go(clock: FakeClock) -> None:
    """Who leaves is counted, and remembered: it comes back with what it had used."""
    limiter = Limiter("2/minute", max_keys=2, clock=clock)
    limiter.hit("a")
    clock.advance(10)
    limiter.hit("b")
    limiter.hit("c")

    assert (len(limiter), limiter.evictions) == (2, 1)
    assert limiter.peek("a") == Decision(True, 2, 1, 50.0, 0.0)
    assert limiter.hit("a") == Decision(True, 2, 0, 50.0, 0.0)
    assert not limiter.hit("a").allowed


def test_a_window_that_was_taken_up_again_expires_in_its_turn(clock: FakeClock) -> None:
    """It keeps its end, and does not stay in the table behind windows that began later."""
    limiter = Limiter("5/minute", max_keys=2, clock=clock)
    limiter.hit("a")
    clock.advance(50)
    for key in ("b", "c", "a"):
        limiter.hit(key)
    clock.advance(11)

    limiter.hit("d")

    assert limiter.evictions == 2  # "a" and "b" left a full table; then "a" was over, and made room
    assert limiter.peek("c").remaining == 4


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", None, True])
def test_a_table_without_a_size_is_refused(size: int) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match="max_keys must be a whole number of at least 1, got"):
        Limiter("1/minute", max_keys=size)
