"""Destination of a sink: a checked URL of HTTP."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

import httpx2

from ...secret import Secret

_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*{_LABEL}\.?")
_EXPECTED = "must be 'http://' or 'https://', a host, perhaps a port from 1 to 65535, and a path"


class Destination(NamedTuple):
    """A place to send to.

    Attributes:
        url: The URL without user information; it is shown as its scheme, host and port.
        authorization: Basic authentication by the user information, empty if there is none.
    """

    url: Secret[httpx2.URL]
    authorization: Secret[str]

    def below(self, path: str) -> Destination:
        """Return the destination with `path` appended, unless its path ends with it."""
        url = self.url.reveal()
        start = url.raw_path.decode("ascii").partition("?")[0].rstrip("/").removesuffix(path)
        below = url.copy_with(raw_path=f"{start}{path}".encode("ascii"))
        return self._replace(url=Secret(below, shown=str(self.url)))

    @property
    def place(self) -> str:
        """Scheme, host and port, which logs and errors may show."""
        return str(self.url)

    @property
    def host(self) -> str:
        """As DNS has it, or an address without brackets."""
        return self.url.reveal().raw_host.decode("ascii")

    @property
    def port(self) -> int:
        """The port, whether it was named or not."""
        url = self.url.reveal()
        return url.port or (443 if url.scheme == "https" else 80)


def parse(url: str, name: str = "url") -> Destination:
    """Take a URL apart. Errors do not quote it: it may well be a secret.

    Args:
        url: Of HTTP.
        name: How errors call it.

    Raises:
        ValueError: It is no URL of HTTP.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise ValueError(f"{name} {_EXPECTED}, got what is no URL") from None
    wrong = _wrong(parsed)
    if wrong:
        raise ValueError(f"{name} {_EXPECTED}, got one {wrong}")
    bare = parsed.copy_with(userinfo=None, fragment=None)
    place = f"{bare.scheme}://{bare.netloc.decode('ascii')}"
    return Destination(Secret(bare, shown=place), Secret(_basic(parsed)))


def _wrong(url: httpx2.URL) -> str:
    """What is wrong with `url`, empty where nothing is."""
    host = url.raw_host.decode("ascii")
    if url.scheme not in ("http", "https"):
        return "that begins otherwise"
    if ":" not in host and not _HOST.fullmatch(host):
        return "without a host that could be"
    if url.port is not None and not 1 <= url.port <= 65535:
        return "with another port"
    return ""


def _basic(url: httpx2.URL) -> str:
    """Basic authentication by the name and password in `url`."""
    if not url.userinfo:
        return ""
    login = f"{url.username}:{url.password}".encode()
    return f"Basic {base64.b64encode(login).decode('ascii')}"
