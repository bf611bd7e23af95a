"""How a sink says that an event was not taken: never will be, or not yet."""

from __future__ import annotations


class Rejected(Exception):  # noqa: N818 - it is what became of the event
    """The receiver will never take this event, so to try again is of no use.

    Attributes:
        status: The HTTP status of the answer, where it was one that said so.
    """

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Later(Exception):  # noqa: N818 - as above
    """The receiver could not take this event now, and may do so later.

    Attributes:
        after: Seconds that the receiver asked us to wait, where it did.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after
