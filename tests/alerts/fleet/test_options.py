"""Options of a fleet."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import AlertEngine, Fleet


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"heartbeat": 0}, "heartbeat must be an integer from 1 to 60, got 0"),
        ({"heartbeat": 61}, "heartbeat must be an integer from 1 to 60, got 61"),
        ({"heartbeat": 2.5}, "heartbeat must be an integer from 1 to 60, got 2.5"),
        ({"lease": "15"}, "lease must be a number of seconds above 0, got '15'"),
        ({"lease": 14}, "lease must be at least 3 heartbeats of 5 s, got 14 s"),
        (
            {"heartbeat": 10},
            "lease must be at least 3 heartbeats of 10 s, got 15 s",
        ),
        ({"alone_after": -1}, "alone_after must be a number of seconds"),
        ({"alone_after": float("nan")}, "alone_after must be a number of seconds"),
    ],
)
def test_invalid_option_is_rejected(chosen: dict[str, Any], message: str) -> None:
    """The error names the option, what it must be, and its value."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        Fleet(**chosen)

    assert str(caught.value).startswith(message)


def test_valid_options_are_accepted() -> None:
    """The lease is at least three heartbeats, and a process may continue alone at once or never."""
    assert Fleet() == Fleet(heartbeat=5, lease=15, alone_after=120, leads=True)
    assert Fleet(heartbeat=1, lease=3, alone_after=0).alone_after == 0
    assert Fleet(alone_after=None, leads=False).alone_after is None


def test_other_objects_are_rejected_as_a_fleet() -> None:
    """The constructor of the engine says what to pass."""
    chosen: Any = {"lease": 30}

    with pytest.raises(
        ValueError, match=r"^fleet must be a Fleet, such as Fleet\(lease=30\), got a dict$"
    ):
        AlertEngine(fleet=chosen)
