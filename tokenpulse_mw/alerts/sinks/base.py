"""How a sink says that an event was not taken: never will be, or not yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Rejected(Exception):  # noqa: N818 - it is what became of the event
    """The receiver will never take this event, so to try again is of no use.

    Attributes:
        status: The HTTP status of the answer, where it was one that said so.
    """

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class RetryLater(Exception):  # noqa: N818 - as above
    """The receiver could not take this event now, and may do so later.

    Attributes:
        after: Seconds that the receiver asked us to wait, where it did.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Transport(Protocol):
    """A transport of httpx2, such as `httpx2.AsyncHTTPTransport(verify=..., proxy=...)`."""

    async def handle_async_request(self, request: Any, /) -> Any:
        """Send one request, and give the answer."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Post(Protocol):
    """Sends to one place; `poster.Poster` says what it raises."""

    place: str

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Make one attempt."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
