"""Calendar windows, their clock and their time zones."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw import Limiter, PlanLimiter
from tokenpulse_mw.ratelimit.limiters.calendar import PERIODS, Calendar

from ...support.clock import FakeClock

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("America/Sao_Paulo", "America/St_Johns", "Pacific/Apia", "Asia/Beirut", "Africa/Casablanca"),
)
FROM, UNTIL = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1995, 2035))


def at(text: str, zone: str = "UTC") -> float:
    """Return the seconds since the epoch of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def label(seconds: float, period: str, zone: str) -> Any:
    """Return the name of the civil period of a time."""
    local = datetime.fromtimestamp(seconds, ZoneInfo(zone))
    year, week, _ = local.isocalendar()
    names = {"week": (year, week), "month": (local.year, local.month), "year": local.year}
    return names.get(period, local.date())


class Wall:
    """Wall clock that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.now


@given(
    st.integers(FROM, UNTIL),
    st.sampled_from(["day", "week", "month", "year"]),
    st.sampled_from(ZONES),
)
@example(int(at("2024-03-31T12:00", "Europe/Berlin")), "day", "Europe/Berlin")  # 23 hours
@example(int(at("2024-10-27T12:00", "Europe/Berlin")), "day", "Europe/Berlin")  # 25 hours
@example(int(at("2017-10-15T05:00", "America/Sao_Paulo")), "day", "America/Sao_Paulo")
@example(int(at("2011-12-29T22:00", "Pacific/Apia")), "day", "Pacific/Apia")  # no 30 December
@example(int(at("2024-02-29T12:00")), "month", "UTC")
@example(int(at("2020-12-31T12:00")), "week", "UTC")  # week 53 of 2020 ends in 2021
def test_window_is_the_civil_period_of_the_zone(seconds: int, period: str, zone: str) -> None:
    """All times of a window have one civil period, and the times around it have others."""
    starts, ends = Calendar(period, zone).window(seconds)

    assert starts <= seconds < ends <= starts + PERIODS[period]
    repeated_midnight = zone == "America/St_Johns"  # 0:01 was 23:01 of the day before until 2011
    middle = label((starts + ends) / 2, period, zone)
    assert label(ends - 1, period, zone) == middle
    assert label(ends, period, zone) != middle
    assert label(starts - 1, period, zone) != middle
    if not repeated_midnight:
        assert label(starts, period, zone) == middle


@given(st.integers(FROM, UNTIL), st.sampled_from([*PERIODS]), st.sampled_from(ZONES))
@example(int(at("2024-04-07T01:50", "Australia/Lord_Howe")), "hour", "Australia/Lord_Howe")
@example(int(at("2024-10-06T01:50", "Australia/Lord_Howe")), "hour", "Australia/Lord_Howe")
@example(int(at("2006-10-29T00:00", "America/St_Johns")) - 5, "day", "America/St_Johns")
@example(int(at("2006-10-29T00:00", "America/St_Johns")) + 1800, "day", "America/St_Johns")
def test_windows_follow_each_other_without_gap(seconds: int, period: str, zone: str) -> None:
    """The next window begins where one ends, whichever was computed first."""
    calendar = Calendar(period, zone)
    starts, ends = calendar.window(seconds)

    assert calendar.window(ends)[0] == ends
    assert calendar.window(ends - 0.001) == (starts, ends)
    assert calendar.window(starts) == (starts, ends)
    assert calendar.window(starts - 0.001)[1] == starts


@pytest.mark.parametrize(
    ("now", "zone", "hours"),
    [
        ("2024-03-31T00:00", "Europe/Berlin", 23),
        ("2024-10-27T00:00", "Europe/Berlin", 25),
        ("2024-06-01T18:00", "Europe/Berlin", 6),
        ("2024-06-01T18:30", "Asia/Kathmandu", 5.5),
    ],
)
def test_retry_after_is_the_rest_of_the_civil_day(now: str, zone: str, hours: float) -> None:
    """A day with a change of the clocks has 23 or 25 hours."""
    limiter = Limiter("1/calendar day", timezone=zone, wall_clock=Wall(at(now, zone)))

    assert limiter.hit("ada").allowed
    rejected = limiter.hit("ada")
    assert (rejected.allowed, rejected.retry_after) == (False, hours * 3600)
    assert rejected.reset_after == hours * 3600


def test_window_begins_at_the_boundary_and_not_at_the_first_request() -> None:
    """A request shortly before the end of a month does not count in the next month."""
    wall = Wall(at("2024-02-29T23:59:59"))
    limiter = Limiter("10 USD per calendar month", wall_clock=wall)

    assert limiter.hit("ada", 10_000_000).allowed
    assert limiter.hit("ada", 1).retry_after == 1
    wall.now += 1
    assert limiter.hit("ada", 10_000_000).allowed
    assert limiter.peek("ada").reset_after == 31 * 86_400
    assert not limiter.has_room("ada", 1)


def test_clock_that_is_set_back_gives_no_second_budget(caplog: pytest.LogCaptureFixture) -> None:
    """Requests count in the later window until it ends; `Retry-After` is that of the wall clock."""
    wall = Wall(at("2024-05-01T23:00"))
    limiter = Limiter("2/calendar day", wall_clock=wall)
    assert [limiter.hit("ada").allowed for _ in range(3)] == [True, True, False]
    wall.now = at("2024-05-02T00:10")
    assert limiter.hit("ada").allowed

    wall.now = at("2024-05-01T22:00")
    with caplog.at_level(logging.WARNING):
        decisions = [limiter.hit("ada") for _ in range(3)]

    assert [decision.allowed for decision in decisions] == [True, False, False]
    assert decisions[-1].retry_after == 26 * 3600
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("wall clock was set back by 7200 s to before the current")
    wall.now = at("2024-05-02T23:00")
    assert not limiter.hit("ada").allowed
    wall.now = at("2024-05-03T00:00")
    assert limiter.hit("ada").allowed


@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.integers(0, 86_399), st.integers(1, 2)),
        min_size=4,
        max_size=30,
    )
)
@example([(0, 0, 2), (1, 0, 1), (-1, 0, 1)])
def test_no_window_has_more_than_its_budget_with_any_clock(
    jumps: list[tuple[int, int, int]],
) -> None:
    """However the wall clock jumps, all requests of a window together are within the limit."""
    wall = Wall(at("2024-03-30T12:00", "Europe/Berlin"))
    limiter = Limiter("2/calendar day", timezone="Europe/Berlin", wall_clock=wall)
    allowed: dict[str, int] = {}
    for days, seconds, number in jumps:
        wall.now += days * 86_400 + seconds - 43_200
        day = str(datetime.fromtimestamp(limiter.clock(), ZoneInfo("Europe/Berlin")).date())
        for _ in range(number):
            allowed[day] = allowed.get(day, 0) + limiter.hit("ada").allowed

    assert max(allowed.values(), default=0) <= 2


def test_guarantees_of_the_table_hold_for_calendar_windows() -> None:
    """The table is bounded, and a key over its limit stays limited in a flood of other keys."""
    wall = Wall(at("2024-05-01T12:00"))
    limiter = Limiter("3/calendar day", max_keys=50, wall_clock=wall)
    while limiter.hit("greedy").allowed:
        pass
    others = [limiter.hit(number).allowed for number in range(500)]

    assert len(limiter) <= 50
    assert not limiter.hit("greedy").allowed
    assert all(others)
    limiter.reset("greedy")
    assert limiter.hit("greedy").allowed
    wall.now = at("2024-05-02T00:00")
    assert [limiter.hit(number).allowed for number in range(4)] == [True] * 4


def test_refund_of_an_earlier_window_is_ignored() -> None:
    """A response that ends after midnight does not give tokens to the new day."""
    wall = Wall(at("2024-05-01T23:59:50"))
    limiter = Limiter("100/calendar day", wall_clock=wall)
    limiter.hit("ada", 60)
    yesterday = limiter.clock()
    wall.now = at("2024-05-02T00:00:10")
    limiter.hit("ada", 50)

    limiter.charge("ada", -60, since=yesterday)
    assert limiter.peek("ada", 0).remaining == 50
    limiter.charge("ada", -20, since=limiter.clock())
    assert limiter.peek("ada", 0).remaining == 70
    limiter.charge("ada", 5)
    assert limiter.peek("ada", 0).remaining == 65
    limiter.adopt("ada", limiter.peek("ada", 0)._replace(remaining=40))
    assert limiter.peek("ada", 0).remaining == 40


def test_limit_of_a_calendar_window_can_change() -> None:
    """The usage of the day stays."""
    limiter = Limiter("2/calendar day", wall_clock=Wall(at("2024-05-01T12:00")))
    assert [limiter.hit("ada").allowed for _ in range(3)] == [True, True, False]

    limiter.set_limit("3/calendar day")

    assert [limiter.hit("ada").allowed for _ in range(2)] == [True, False]
    assert limiter.hit("ada", 4).retry_after == float("inf")


def test_plans_may_have_calendar_windows() -> None:
    """Each plan has its own amount in the same calendar period."""
    limiter = PlanLimiter(
        {"free": "1/calendar day", "pro": "3/calendar day"},
        timezone="Europe/Berlin",
        wall_clock=Wall(at("2024-05-01T18:00", "Europe/Berlin")),
    )

    allowed = [sum(limiter.hit(key).allowed for _ in range(5)) for key in ("free", "pro")]

    assert allowed == [1, 3]
    assert limiter.hit("free").retry_after == 6 * 3600


@pytest.mark.parametrize(
    ("limit", "options", "error"),
    [
        ("1/calendar day", {"timezone": "Europe/Atlantis"}, "IANA name .* pip install tzdata"),
        ("1/calendar day", {"timezone": "../etc/passwd"}, "IANA name"),
        ("1/calendar day", {"timezone": 1}, "IANA name"),
        ("1/day", {"timezone": "UTC"}, "timezone must be None without a calendar window"),
        ("1/calendar day", {"strategy": "gcra"}, "strategy must be 'fixed-window' for a calendar"),
        ("1/calendar day", {"wall_clock": 1}, "wall_clock must be a function"),
    ],
)
def test_invalid_calendar_limit_is_rejected(limit: str, options: Any, error: str) -> None:
    """The error says what to write instead."""
    with pytest.raises(ValueError, match=error):
        Limiter(limit, **options)


def test_clock_of_a_calendar_limit_can_be_replaced() -> None:
    """A test may use the clock that it uses for other limits."""
    limiter = Limiter("1/calendar day")
    limiter.clock = clock = FakeClock(0.0)

    assert limiter.hit("ada").allowed
    assert limiter.hit("ada").retry_after == timedelta(days=1).total_seconds()
    clock.advance(86_400)
    assert limiter.hit("ada").allowed
