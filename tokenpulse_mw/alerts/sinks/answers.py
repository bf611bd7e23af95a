"""What the answer to an attempt means: taken, never, or later."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from .errors import Later, Rejected

_COME_AGAIN = frozenset({408, 425, 429})  # the client errors that are a matter of time
_FOR_GOOD = frozenset({301, 308})  # the redirects that say so
_LONGEST_WAIT = 3600.0  # seconds; who asks for more may be mistaken, or mean us harm
_SECONDS = re.compile(r"[0-9]{1,9}")


def judge(place: str, status: int, headers: Mapping[str, str], now: float) -> None:
    """Return if the answer says that what was sent has been taken.

    Args:
        place: Who answered; it must not have secrets in it.
        status: Of HTTP.
        headers: With names in lower case.
        now: Seconds since the epoch.

    Raises:
        Rejected: It never will be.
        Later: It may be later.
    """
    if 200 <= status < 300:
        return
    said = f"{place} answered {status}"
    if 300 <= status < 400:
        said += ", and redirects are not followed: give the address that it leads to"
    if status in _FOR_GOOD or (400 <= status < 500 and status not in _COME_AGAIN):
        raise Rejected(said, status=status)
    raise Later(said, after=seconds_to_wait(headers.get("retry-after", ""), now))


def seconds_to_wait(retry_after: str, now: float) -> float | None:
    """What a Retry-After header asks for, from 0 to an hour; None where it asks for nothing."""
    retry_after = retry_after.strip()
    if _SECONDS.fullmatch(retry_after):
        return min(float(retry_after), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - now
    except (ValueError, OverflowError, OSError):
        return None
    return max(0.0, min(seconds, _LONGEST_WAIT))
