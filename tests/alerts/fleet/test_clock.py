from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.fleet.clock import FleetClock

delays = st.floats(0, 2)


def test_offset_comes_from_the_middle_of_the_round_trip() -> None:
    """The store's time is compared with the middle between request and response."""
    clock = FleetClock(7.0)

    assert clock.offset == 7.0
    assert clock.heard(10.0, 12.0, 1011.0) == 0
    assert clock.offset == 1000.0


def test_offset_comes_from_the_shortest_of_the_last_round_trips() -> None:
    """A slow heartbeat does not change the offset; it counts when it is the best of the last 8."""
    clock = FleetClock(0.0)
    clock.heard(0.0, 0.2, 1000.1)
    clock.heard(5.0, 7.0, 1006.5)

    assert clock.offset == 1000.0

    for now in range(10, 17):
        clock.heard(now, now + 1, now + 1000.8)

    assert clock.offset == pytest.approx(1000.3)


@given(
    st.lists(st.tuples(delays, delays), min_size=1, max_size=20),
    st.floats(-1e9, 1e9),
)
def test_offset_is_wrong_by_at_most_half_of_the_shortest_round_trip(
    trips: list[tuple[float, float]], offset: float
) -> None:
    """Any split of a round trip into request and response gives this bound, and never a step."""
    clock = FleetClock(0.0)
    sent = 0.0
    for request, response in trips:
        assert clock.heard(sent, sent + request + response, sent + request + offset) == 0
        sent += 5

    shortest = min(sum(trip) for trip in trips[-8:])
    assert abs(clock.offset - offset) <= shortest / 2 + 1e-6


def test_step_of_the_store_is_returned_once() -> None:
    """After a step of more than a second, the new time counts at once."""
    clock = FleetClock(0.0)
    clock.heard(0.0, 0.1, 1000.05)

    assert clock.heard(5.0, 5.5, 3605.25) == pytest.approx(2600)
    assert clock.offset == pytest.approx(3600)
    assert clock.heard(10.0, 10.1, 3610.05) == 0


def test_small_step_of_the_store_is_followed_without_a_report() -> None:
    """A step of at most a second is not reported, and counts after at most 8 heartbeats."""
    clock = FleetClock(0.0)
    clock.heard(0.0, 0.0, 1000.0)

    for now in range(1, 9):
        assert clock.heard(now, now + 0.1, now + 1001.0) == 0

    assert clock.offset == pytest.approx(1000.95)


def test_heartbeat_follows_the_end_of_each_slot_by_the_jitter() -> None:
    """Heartbeats are a slot apart, in the time of the fleet."""
    clock = FleetClock(1000.0)

    first = clock.schedule(1.0, bucket_seconds=5, jitter=0.5)

    assert first == 5.5
    assert clock.schedule(first, bucket_seconds=5, jitter=0.5) == 10.5
    assert clock.schedule(5.4, bucket_seconds=5, jitter=0.5) == 5.5
