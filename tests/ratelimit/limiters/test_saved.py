"""Windows that are kept over a restart."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Limiter, PlanLimiter
from tokenpulse_mw.ratelimit.encoding import decode_key, encode_key
from tokenpulse_mw.ratelimit.limiters import SavedWindow

from ...support.clock import FakeClock

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()

KEYS = st.recursive(
    st.none() | st.binary() | st.text() | st.integers(-(2**70), 2**70),
    lambda parts: st.lists(parts, max_size=3).map(tuple),
    max_leaves=6,
)


class Machine:
    """Monotonic and wall clock of a machine that boots at a time."""

    def __init__(self, wall: float) -> None:
        self.monotonic = FakeClock(50.0)
        self._boot = wall - 50.0

    def wall(self) -> float:
        """Return the seconds since the epoch."""
        return self._boot + self.monotonic.now

    def limiter(self, rate: str, **options: object) -> Limiter:
        """Return a limiter on this machine."""
        return Limiter(rate, clock=self.monotonic, wall_clock=self.wall, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", ["100/day", "100/calendar day"])
def test_usage_and_end_of_a_window_survive_a_restart(rate: str) -> None:
    """The new process has another monotonic clock; the window ends at the same civil time."""
    before = Machine(NOON)
    old = before.limiter(rate)
    old.hit("ada", 70)
    before.monotonic.advance(600)
    ends = before.wall() + old.peek("ada").reset_after

    after = Machine(NOON + 3600)
    new = after.limiter(rate)
    new.restore(old.dump())

    assert new.peek("ada", 0).remaining == 30
    assert after.wall() + new.peek("ada").reset_after == pytest.approx(ends, abs=1e-3)
    assert not new.hit("ada", 31).allowed


def test_usage_since_the_start_is_added() -> None:
    """Requests that arrived before the windows were restored count too."""
    old = Machine(NOON).limiter("100/day")
    old.hit("ada", 70)
    new = Machine(NOON).limiter("100/day")
    new.hit("ada", 20)

    new.restore(old.dump())

    assert new.peek("ada", 0).remaining == 10


def test_windows_that_cannot_be_used_are_left_out() -> None:
    """Ended windows, those of another calendar, and negative usage have no effect."""
    limiter = Machine(NOON).limiter("100/calendar day", timezone="Asia/Tokyo")
    tokyo = limiter.clock() + limiter.peek("ada").reset_after

    limiter.restore(
        [
            SavedWindow(encode_key("ended"), 50, NOON - 1),
            SavedWindow(encode_key("berlin"), 50, NOON + 11 * 3600),
            SavedWindow(encode_key("negative"), -50, tokyo),
            SavedWindow(encode_key("ada"), 50, tokyo),
        ]
    )

    used = {key: 100 - limiter.peek(key, 0).remaining for key in ("ended", "berlin", "ada")}
    assert used == {"ended": 0, "berlin": 0, "ada": 50}
    assert limiter.peek("negative", 0).remaining == 100


def test_window_of_a_wrong_clock_is_bounded() -> None:
    """No restored window lasts longer than a new one."""
    limiter = Machine(NOON).limiter("100/day")

    limiter.restore([SavedWindow(encode_key("ada"), 100, NOON + 1e9)])

    assert limiter.hit("ada").retry_after == pytest.approx(86_400)


def test_dump_has_the_most_used_keys_of_long_windows() -> None:
    """Short windows, buckets, ended windows and keys of this process alone are left out."""
    machine = Machine(NOON)
    limiter = machine.limiter("100/hour")
    limiter.hit("ended")
    machine.monotonic.advance(3600)
    for key, cost in {"ada": 3, "bob": 9, "eve": 5, object(): 50}.items():
        limiter.hit(key, cost)

    assert [decode_key(window.key) for window in limiter.dump(max_keys=2)] == ["bob", "eve"]
    assert len(limiter.dump()) == 3
    for other in (machine.limiter("100/minute"), machine.limiter("100/day", strategy="gcra")):
        other.hit("ada")
        assert other.dump() == []
    bucket = machine.limiter("100/day", strategy="gcra")
    bucket.restore(limiter.dump())
    assert bucket.peek("ada", 0).remaining == 100


def test_windows_of_plans_survive_a_restart() -> None:
    """Each key has the window of its plan, even if its rate is not known at the start."""
    clock = FakeClock()
    rates = {"acme": "10/day", "globex": "100/hour"}
    old = PlanLimiter(rates, clock=clock)
    for key in rates:
        old.hit(key, 5)
    new = PlanLimiter(rates, clock=clock)

    new.restore([*old.dump(), SavedWindow(encode_key("unknown"), 1, 2e9)])

    assert [new.peek(key, 0).remaining for key in rates] == [5, 95]


def test_usage_of_an_evicted_key_is_added() -> None:
    """A restored key continues the window that is in the sketch."""
    limiter = Limiter("100/day", max_keys=1, clock=FakeClock())
    limiter.hit("ada", 20)
    saved = limiter.dump()
    limiter.hit("bob")

    limiter.restore(saved)

    assert limiter.peek("ada", 0).remaining == 60


@given(KEYS)
def test_encoded_key_is_decoded_to_itself(key: object) -> None:
    """A store keeps keys as bytes."""
    assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize(
    "data", [b"", b"x1:a", b"b9:short", b"b-1:", b"i1", b"n" * 2, b"t2:b9", b"t999:" * 99, b"bx:"]
)
def test_malformed_key_is_rejected(data: bytes) -> None:
    """Damaged rows of a store raise one type of error."""
    with pytest.raises(ValueError, match=r"encoded key|invalid literal"):
        decode_key(data)


@given(st.binary(max_size=30))
def test_any_bytes_are_decoded_or_rejected(data: bytes) -> None:
    """No other error occurs."""
    try:
        decode_key(data)
    except ValueError:
        return


def test_damaged_row_adds_nothing() -> None:
    """So `restore` can be called again with the other rows, without a usage that counts twice."""
    limiter = Machine(NOON).limiter("100/day")
    good = SavedWindow(encode_key("ada"), 40, NOON + 60)

    with pytest.raises(ValueError, match="encoded key"):
        limiter.restore([good, SavedWindow(b"x", 40, NOON + 120)])
    limiter.restore([good])

    assert limiter.peek("ada", 0).remaining == 60


def test_calendar_window_keeps_its_end_if_the_wall_clock_was_set_back() -> None:
    """A clock that was wrong for a time costs no usage over a restart."""
    machine = Machine(NOON)
    limiter = machine.limiter("100/calendar hour")
    limiter.hit("ada", 40)
    machine.monotonic.now -= 7200
    [saved] = limiter.dump()
    machine.monotonic.now += 7200

    restarted = machine.limiter("100/calendar hour")
    restarted.restore([saved])

    assert (saved.ends, restarted.peek("ada", 0).remaining) == (NOON + 3600, 60)
