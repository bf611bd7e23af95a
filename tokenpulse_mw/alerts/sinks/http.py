"""What the sinks that send by HTTP have in common."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import msgspec

from ...secret import hide_arguments
from ...validation import check_seconds
from .base import Post, Rejected, Transport
from .ssrf import check_public, find_public

_LONGEST_TIMEOUT = 600.0  # seconds


class HttpSink:
    """A sink that sends to one URL.

    Raises:
        ValueError: One of the settings cannot be, or httpx2 is not installed.
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
        self._poster = open_post(
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
        return f"{type(self).__name__}({self._poster.place!r})"

    async def aclose(self) -> None:
        """Close the connections. The sink can still be used; it opens new ones then."""
        await self._poster.aclose()


def open_post(
    name: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    path: str = "",
    allow_private: bool = True,
    transport: Transport | None = None,
    wall: Callable[[], float] = time.time,
) -> Post:
    """Check the settings of the sink called `name`, and what it sends by; nothing is sent yet.

    Raises:
        ValueError: One of the settings cannot be, or httpx2 is not installed.
    """
    check_seconds("timeout", timeout, maximum=_LONGEST_TIMEOUT)
    checked = check_headers(headers)
    if transport is not None and not allow_private:
        raise ValueError(
            "allow_private=False connects to the addresses that were checked, which a transport "
            "of others need not do: leave out transport, or allow private addresses"
        )
    need_httpx2(name)
    from .http_client import HttpClient

    poster = HttpClient(
        url,
        timeout=timeout,
        headers=checked,
        path=path,
        find=None if allow_private else find_public,
        transport=transport,
        wall=wall,
    )
    if not allow_private:
        check_public(poster.host)
    return poster


def need_httpx2(name: str) -> None:
    """Refuse to build the sink called `name` where it could not send.

    Raises:
        ValueError: httpx2 is not installed.
    """
    if find_spec("httpx2") is None:
        raise ValueError(f"{name} needs the package httpx2: pip install 'tokenpulse-mw[notify]'")


def to_json(make: Callable[[], Any]) -> bytes:
    """What `make` gives, as JSON in UTF-8.

    Raises:
        Rejected: It cannot be made or written, and never will be.
    """
    try:
        return msgspec.json.encode(make())
    except Exception as error:
        raise Rejected(f"the event cannot be written as JSON ({type(error).__name__})") from error


_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")


_OURS = {"connection", "content-length", "content-type", "host", "transfer-encoding"}


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers with their names in lower case. Errors name a header, and never show its value.

    Raises:
        ValueError: One cannot be sent, or is ours to set.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            # What is not a name may be a whole line, with the value in it.
            raise ValueError(
                "the name of a header must be a word such as 'X-Team', without its value"
            )
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"the header {name!r} is set by the sink: leave it out of headers")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ValueError(
                f"the value of the header {name!r} must be printable ASCII on one line, "
                "without spaces around it"
            )
        checked[name.lower()] = value
    return checked
