"""Table of the keys that have used the most of a shared limit."""

from __future__ import annotations

from tokenpulse_mw.ratelimit.shared.top_usage import TopUsage


def test_only_keys_that_used_half_of_the_limit_are_listed() -> None:
    """A key whose latest decision is below half is removed."""
    usage = TopUsage(101, window=60)
    for key, used in {"ada": 50, "bob": 51, "eve": 101}.items():
        usage.record(key, used, now=0.0, ends=60.0)
    assert usage.entries(now=0.0) == [("bob", 51, 60), ("eve", 101, 60)]

    usage.record("bob", 50, now=1.0, ends=60.0)
    assert usage.entries(now=1.0) == [("eve", 101, 59)]


def test_ended_window_is_not_listed() -> None:
    """The usage is that of the current window."""
    usage = TopUsage(100, window=60)
    usage.record("ada", 100, now=0.0, ends=60.0)

    assert usage.entries(now=59.0) == [("ada", 100, 1)]
    assert usage.entries(now=60.0) == []


def test_charge_corrects_the_usage_of_its_window() -> None:
    """A refund of an earlier window is ignored, as in the storage, and no key exceeds its limit."""
    usage = TopUsage(100, window=60)
    usage.record("ada", 70, now=100.0, ends=150.0)  # the window began at 90

    usage.correct("ada", -15, since=95.0)
    assert usage.entries(now=100.0) == [("ada", 55, 50)]
    usage.correct("ada", -50, since=80.0)
    usage.correct("ada", 40, since=80.0)
    assert usage.entries(now=100.0) == [("ada", 95, 50)]
    usage.correct("ada", 40, since=95.0)
    assert usage.entries(now=100.0) == [("ada", 100, 50)]
    usage.correct("ada", -100, since=95.0)
    usage.correct("bob", 90, since=95.0)
    assert usage.entries(now=100.0) == []


def test_least_used_of_too_many_keys_are_evicted() -> None:
    """Of 5,000 keys, the 1,000 that used the most are listed, and at most 2,000 are stored."""
    usage = TopUsage(10_000, window=60)
    for number in range(5000):
        usage.record(number, 5000 + number, now=0.0, ends=60.0)
        assert len(usage._usage) <= 2000

    assert sorted(used for _, used, _ in usage.entries(now=0.0)) == list(range(9000, 10_000))
