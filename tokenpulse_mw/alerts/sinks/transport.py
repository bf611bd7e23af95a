"""What sends for a sink: named here without httpx2, which need not be installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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
