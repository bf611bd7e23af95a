"""How many exchanges of a key may be in progress at once."""

from __future__ import annotations

import math

import pytest

from tokenpulse_mw import Decision, InFlight


def test_there_are_so_many_places_and_no_more() -> None:
    """Whoever finds none is told to ask again in a second, as nobody knows when one is free."""
    places = InFlight(2)

    assert places.hit("a") == Decision(True, 2, 1, 0.0, 0.0)
    assert places.hit("a") == Decision(True, 2, 0, 0.0, 0.0)
    assert places.hit("a") == Decision(False, 2, 0, 0.0, 1.0)


def test_a_place_that_is_given_back_is_free() -> None:
    """As often as it is taken."""
    places = InFlight(1)

    for _ in range(3):
        assert places.hit("a").allowed
        assert not places.hit("a").allowed
        places.release("a")


def test_keys_do_not_share() -> None:
    """One key's places are no other's."""
    places = InFlight(1)

    assert places.hit("a").allowed
    assert places.hit("b").allowed


def test_peeking_takes_no_place() -> None:
    """It tells what would be decided."""
    places = InFlight(1)

    assert places.peek("a") == places.peek("a") == Decision(True, 1, 1, 0.0, 0.0)
    places.hit("a")
    assert places.peek("a") == Decision(False, 1, 0, 0.0, 1.0)


def test_one_exchange_may_take_several_places() -> None:
    """If so many are free; a refusal takes none."""
    places = InFlight(5)

    assert places.hit("a", 3) == Decision(True, 5, 2, 0.0, 0.0)
    assert places.hit("a", 3) == Decision(False, 5, 2, 0.0, 1.0)
    assert places.hit("a", 2).allowed
    places.release("a", 3)
    assert places.peek("a").remaining == 3


def test_more_places_than_there_are_is_refused_for_ever() -> None:
    """There is no use in asking again."""
    assert InFlight(2).hit("a", 3) == Decision(False, 2, 2, 0.0, math.inf)


def test_what_takes_no_place_is_always_allowed() -> None:
    """Also where none is free, and the key is not kept for it."""
    places = InFlight(1)

    assert places.hit("a", 0) == Decision(True, 1, 1, 0.0, 0.0)
    assert len(places) == 0
    places.hit("a")
    assert places.hit("a", 0) == Decision(True, 1, 0, 0.0, 0.0)


def test_keys_with_nothing_in_progress_are_not_kept() -> None:
    """So many keys are known as are in progress, however many came before."""
    places = InFlight(2)

    for key in range(1000):
        places.hit(key)
        places.hit(key)
        places.release(key)
        assert len(places) == 1
        places.release(key)

    assert len(places) == 0


def test_no_more_places_come_back_than_were_taken() -> None:
    """To give back too much wins nothing."""
    places = InFlight(2)
    places.hit("a")

    places.release("a", 5)
    places.release("b")

    assert places.peek("a").remaining == places.peek("b").remaining == 2


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1", None, True, 10**9])
def test_a_number_of_places_that_makes_no_sense_is_refused(limit: int) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=f"a whole number from 1 to 1000000, got {limit!r}"):
        InFlight(limit)


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
def test_what_is_no_cost_is_refused(cost: int) -> None:
    """Nobody can win places, and only whole ones are counted."""
    with pytest.raises(ValueError, match=f"whole number of at least 0, got {cost!r}"):
        InFlight(1).hit("a", cost)
