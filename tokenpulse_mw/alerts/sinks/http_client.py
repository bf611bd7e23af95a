"""One attempt to POST, by httpx2: only who has that installed may import this."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import anyio
import httpx2

from ...secret import Secret
from .base import Rejected, RetryLater, Transport
from .ssrf import Find

_LIMITS = httpx2.Limits(max_connections=8, max_keepalive_connections=2, keepalive_expiry=5)


_MOST_READ = 4096  # bytes of an answer, counted after the first piece of it


class HttpClient:
    """Sends to one URL. Redirects, cookies and the environment's proxies have no say in it.

    It goes by httpx2's transport, not its client, which would write the whole URL to the log.

    Args:
        url: Where to.
        timeout: Seconds for one attempt, from looking up the host to the end of the answer.
        headers: Sent each time, with names in lower case.
        path: What the path must end in, and is added where it does not.
        find: Gives the addresses to connect to, so that what was checked is what is used.
            Without it the transport looks the host up.
        transport: Someone else's, used in place of one of our own; not closed.
        wall: Seconds since the epoch.

    Attributes:
        place: Scheme, host and port, with no secret in it.
        host: As DNS has it, or an address.

    Raises:
        ValueError: `url` is no URL of HTTP.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        headers: Mapping[str, str],
        path: str = "",
        find: Find | None = None,
        transport: Transport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._to = parse(url).below(path) if path else parse(url)
        self.place, self.host = self._to.place, self._to.host
        self._timeout = timeout
        sent = {"user-agent": "tokenpulse-mw", "content-type": "application/json"}
        if authorization := self._to.authorization.reveal():
            sent["authorization"] = authorization
        self._headers = Secret(sent | dict(headers))
        self._find = find
        self._lent = transport
        self._own: httpx2.AsyncHTTPTransport | None = None
        self._tls = None if transport else httpx2.create_ssl_context(trust_env=False)
        self._wall = wall

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Make one attempt.

        Raises:
            Rejected: It was answered that this will never be taken.
            Later: There was no answer, or one that lets us hope.
        """
        try:
            with anyio.fail_after(self._timeout):
                status, answered = await self._attempt(
                    body, Secret(self._headers.reveal() | dict(headers or {}))
                )
        except TimeoutError:
            raise RetryLater(f"{self.place} did not answer within {self._timeout:g} s") from None
        except Rejected:
            raise  # by the look-up of the host, in our own words
        except Exception as error:  # noqa: BLE001 - a transport of the user may raise anything
            # The error itself is left out: its text and its traceback may show the URL or headers.
            raise RetryLater(f"{self.place} cannot be asked ({type(error).__name__})") from None
        check_response(self.place, status, answered, self._wall())

    async def aclose(self) -> None:
        """Close the connections; the next attempt would open new ones."""
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()

    async def _attempt(
        self, body: bytes, headers: Secret[dict[str, str]]
    ) -> tuple[int, httpx2.Headers]:
        """Send, by each address in turn until one can be connected to."""
        if self._find is None:
            return await self._send(self._to.url.reveal(), body, headers)
        addresses = await self._find(self._to.host, self._to.port)
        *others, last = [self._to.url.reveal().copy_with(host=address) for address in addresses]
        share = 1 / len(addresses)
        for url in others:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._send(url, body, headers, share=share)
        return await self._send(last, body, headers, share=share)

    async def _send(
        self, url: httpx2.URL, body: bytes, headers: Secret[dict[str, str]], *, share: float = 1
    ) -> tuple[int, httpx2.Headers]:
        """Send to `url`; whatever its host is, that of the destination is who must answer."""
        timeout = httpx2.Timeout(self._timeout, connect=self._timeout * share)
        request = httpx2.Request(
            "POST",
            url,
            headers={"host": self._to.url.reveal().netloc.decode("ascii")} | headers.reveal(),
            content=body,
            extensions={"timeout": timeout.as_dict(), "sni_hostname": self._to.host},
        )
        response: httpx2.Response = await self._transport().handle_async_request(request)
        try:
            await _read(response)
        finally:
            await response.aclose()
        return response.status_code, response.headers

    def _transport(self) -> Transport:
        if self._lent is not None:
            return self._lent
        if self._own is None:
            self._own = httpx2.AsyncHTTPTransport(
                verify=self._tls or True, trust_env=False, limits=_LIMITS
            )
        return self._own


async def _read(response: httpx2.Response) -> None:
    """Read a short answer to its end, so that its connection can be used again; of others some."""
    size = 0
    # What has been sent is not decompressed. Cancelling ends all the generators underneath.
    with anyio.CancelScope() as enough:
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > _MOST_READ:
                enough.cancel()


_RETRY_STATUSES = frozenset({408, 425, 429})  # the client errors that are a matter of time


_PERMANENT_STATUSES = frozenset({301, 308})  # the redirects that say so


_MAX_RETRY_AFTER_SECONDS = 3600.0  # seconds; who asks for more may be mistaken, or mean us harm


_SECONDS = re.compile(r"[0-9]{1,9}")


def check_response(place: str, status: int, headers: Mapping[str, str], now: float) -> None:
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
    if status in _PERMANENT_STATUSES or (400 <= status < 500 and status not in _RETRY_STATUSES):
        raise Rejected(said, status=status)
    raise RetryLater(said, after=parse_retry_after(headers.get("retry-after", ""), now))


def parse_retry_after(retry_after: str, now: float) -> float | None:
    """What a Retry-After header asks for, from 0 to an hour; None where it asks for nothing."""
    retry_after = retry_after.strip()
    if _SECONDS.fullmatch(retry_after):
        return min(float(retry_after), _MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - now
    except (ValueError, OverflowError, OSError):
        return None
    return max(0.0, min(seconds, _MAX_RETRY_AFTER_SECONDS))


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
