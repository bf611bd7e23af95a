"""Errors that sinks raise, and the protocols of HTTP clients and transports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Rejected(Exception):  # noqa: N818 - named for the result of the delivery
    """The receiver will never accept the event, so it is not retried.

    Attributes:
        status: HTTP status of the response that rejected it, or None.
    """

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class RetryLater(Exception):  # noqa: N818 - named for the result of the delivery
    """The receiver did not accept the event now, but may accept it later.

    Attributes:
        after: Seconds to wait as requested by the receiver, or None.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Transport(Protocol):
    """Transport of httpx2, such as `httpx2.AsyncHTTPTransport(verify=..., proxy=...)`."""

    async def handle_async_request(self, request: Any, /) -> Any:
        """Send one request and return the response."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class PostClient(Protocol):
    """HTTP client of one URL; `HttpClient` documents its errors.

    Attributes:
        origin: Scheme, host and port of the URL, without secrets.
    """

    origin: str

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Make one attempt."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
