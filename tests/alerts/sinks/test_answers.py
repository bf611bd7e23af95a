"""What an answer means for the event: taken, never, or later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import sinks
from tokenpulse_mw.alerts.sinks.answers import judge, seconds_to_wait

NOW = 1_767_323_045.0  # Fri, 02 Jan 2026 03:04:05 GMT


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_success_is_success(status: int) -> None:
    """Any status from 200 to 299."""
    judge("http://there", status, {}, NOW)


@pytest.mark.parametrize("status", [301, 308, 400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
def test_what_will_never_be_taken_is_rejected(status: int) -> None:
    """Errors of ours, and redirects that are for good."""
    with pytest.raises(sinks.Rejected, match=f"^http://there answered {status}") as caught:
        judge("http://there", status, {}, NOW)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "status", [101, 302, 303, 307, 408, 425, 429, 500, 501, 502, 503, 599, 600]
)
def test_what_may_pass_is_for_later(status: int) -> None:
    """Errors of theirs, and those of ours that are a matter of time."""
    with pytest.raises(sinks.Later, match=f"^http://there answered {status}") as caught:
        judge("http://there", status, {"retry-after": "7"}, NOW)
    assert caught.value.after == 7


def test_a_redirect_says_how_to_mend_it() -> None:
    """It is not followed, so the URL has to be changed."""
    with pytest.raises(sinks.Rejected, match="give the address that it leads to"):
        judge("http://there", 301, {"location": "http://secret"}, NOW)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("999999999", 3600),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 03:03:05 GMT", 0),
        ("Fri, 02 Jan 2099 03:05:05 GMT", 3600),
        ("Friday, 02-Jan-26 03:05:05 GMT", 60),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\u0661", None),
        ("soon", None),
        ("Fri, 99 Jan 2026 03:05:05 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    """And at most an hour; what is neither asks for nothing."""
    assert seconds_to_wait(header, NOW) == seconds


@given(st.text())
def test_no_retry_after_does_harm(header: str) -> None:
    """Whatever is in the header."""
    seconds = seconds_to_wait(header, NOW)

    assert seconds is None or 0 <= seconds <= 3600
