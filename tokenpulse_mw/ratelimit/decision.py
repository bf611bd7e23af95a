"""What a limiter decides of one request."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """A limiter's answer, and where it leaves the client.

    Attributes:
        allowed: The request is within the limit, and was counted.
        limit: Requests a window has room for.
        remaining: Requests the window has room for still.
        reset_after: Seconds until the window ends and all of `limit` is free again.
        retry_after: Seconds until a request of the same cost would be allowed; 0 where it was.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float
