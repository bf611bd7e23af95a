"""Where to send to: a URL that was checked, and its secrets apart from what may be shown."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

import httpx2

_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*{_LABEL}\.?")
_EXPECTED = "must be 'http://' or 'https://', a host, perhaps a port from 1 to 65535, and a path"


class Destination(NamedTuple):
    """A place to send to.

    Attributes:
        url: Without the user's name and password.
        place: Scheme, host and port: what logs and errors may show of it.
        authorization: Of the user's name and password, empty where there are none.
    """

    url: httpx2.URL
    place: str
    authorization: str

    def below(self, path: str) -> Destination:
        """The same place with `path` behind its own, unless it ends so already."""
        start = self.url.raw_path.decode("ascii").partition("?")[0].rstrip("/").removesuffix(path)
        return self._replace(url=self.url.copy_with(raw_path=f"{start}{path}".encode("ascii")))

    @property
    def host(self) -> str:
        """As DNS has it, or an address without brackets."""
        return self.url.raw_host.decode("ascii")

    @property
    def port(self) -> int:
        """The port, whether it was named or not."""
        return self.url.port or (443 if self.url.scheme == "https" else 80)


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
    return Destination(bare, f"{bare.scheme}://{bare.netloc.decode('ascii')}", _basic(parsed))


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
