"""Interfaces of the limiters that count in a storage."""

from __future__ import annotations

import pytest

from tokenpulse_mw import InFlight, Limiter, Policy, SharedInFlight, SharedLimiter
from tokenpulse_mw.ratelimit.limiters import StoredInFlight, StoredLimiter

pytest.importorskip("coredis")
STORAGE = "redis://127.0.0.1:1"


def test_policy_awaits_only_limiters_that_count_in_a_storage() -> None:
    """A policy distinguishes its limiters by their interface, without importing a driver."""
    rate, slots = SharedLimiter("1/minute", storage=STORAGE), SharedInFlight(1, storage=STORAGE)

    assert isinstance(rate, StoredLimiter)
    assert isinstance(slots, StoredInFlight)
    assert [Policy(limiter).shared for limiter in (rate, slots)] == [True, True]
    assert [Policy(limiter).shared for limiter in (Limiter("1/minute"), InFlight(1))] == [
        False,
        False,
    ]
    assert [Policy(limiter).holds_slots for limiter in (rate, slots)] == [False, True]
