"""Base class of sinks that send by HTTP, and checks of their arguments."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import msgspec

from ...secret import hide_arguments
from ...validation import check_seconds
from .base import PostClient, Rejected, Transport
from .ssrf import check_public, resolve_public

_MAX_TIMEOUT_SECONDS = 600.0
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
_RESERVED = {"connection", "content-length", "content-type", "host", "transfer-encoding"}


class HttpSink:
    """Sink that sends to one URL.

    Raises:
        ValueError: An argument is invalid, or httpx2 is not installed.
    """

    @hide_arguments
    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10,
        headers: Mapping[str, str] | None = None,
        allow_private: bool = True,
        transport: Transport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = create_client(
            type(self).__name__,
            url,
            timeout=timeout,
            headers=headers,
            allow_private=allow_private,
            transport=transport,
            wall=wall,
        )
        self._wall = wall

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._client.origin!r})"

    async def aclose(self) -> None:
        """Close the connections; the sink opens new ones if it is used again."""
        await self._client.aclose()


def create_client(
    name: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    path: str = "",
    allow_private: bool = True,
    transport: Transport | None = None,
    wall: Callable[[], float] = time.time,
) -> PostClient:
    """Check the arguments of the sink called `name` and return its client.

    Raises:
        ValueError: An argument is invalid, or httpx2 is not installed.
    """
    check_seconds("timeout", timeout, maximum=_MAX_TIMEOUT_SECONDS)
    checked = check_headers(headers)
    if transport is not None and not allow_private:
        raise ValueError(
            "transport must be None if allow_private is False, because a transport may connect to "
            "other addresses than those that were checked: leave out transport, or allow private "
            "addresses"
        )
    require_httpx2(name)
    from .http_client import HttpClient

    client = HttpClient(
        url,
        timeout=timeout,
        headers=checked,
        path=path,
        resolve=None if allow_private else resolve_public,
        transport=transport,
        wall=wall,
    )
    if not allow_private:
        check_public(client.host)
    return client


def require_httpx2(name: str) -> None:
    """Raise ValueError if httpx2, which the sink called `name` needs, is not installed."""
    if find_spec("httpx2") is None:
        raise ValueError(f"{name} needs the package httpx2: pip install 'tokenpulse-mw[notify]'")


def to_json(build: Callable[[], Any]) -> bytes:
    """Return the result of `build` as JSON in UTF-8.

    Raises:
        Rejected: `build` fails, or JSON cannot represent its result; a retry would fail too.
    """
    try:
        return msgspec.json.encode(build())
    except Exception as error:
        raise Rejected(f"event cannot be encoded as JSON ({type(error).__name__})") from error


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers with names in lower case. Errors do not show values.

    Raises:
        ValueError: A name or value is invalid, or the sink sets the header itself.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            # An invalid name may be a whole line with a secret value, so it is not shown.
            raise ValueError("name of a header must be a token such as 'X-Team', without the value")
        if name.lower() in _RESERVED or name.lower().startswith("webhook-"):
            raise ValueError(f"header {name!r} is set by the sink: leave it out of headers")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ValueError(
                f"value of the header {name!r} must be printable ASCII on one line, "
                "without spaces around it"
            )
        checked[name.lower()] = value
    return checked
