"""HTTP client that makes one attempt to POST; the only module that imports httpx2."""

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
from .ssrf import Resolve

_LIMITS = httpx2.Limits(max_connections=8, max_keepalive_connections=2, keepalive_expiry=5)
_MAX_BODY_BYTES = 4096  # of a response, after its first chunk
_MAX_RETRY_AFTER_SECONDS = 3600.0  # a larger value may be a mistake, or an attack
_RETRY_STATUSES = frozenset({408, 425, 429})  # client errors that may be temporary
_PERMANENT_REDIRECTS = frozenset({301, 308})
_SECONDS = re.compile(r"[0-9]{1,9}")
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*{_LABEL}\.?")
_EXPECTED = "must be 'http://' or 'https://', a host, an optional port from 1 to 65535, and a path"


class HttpClient:
    """HTTP client of one URL, without redirects, cookies and proxies of the environment.

    It uses a transport of httpx2 instead of its client, which logs the whole URL.

    Args:
        url: URL of the receiver.
        timeout: Seconds for one attempt, from the lookup of the host to the end of the response.
        headers: Headers of each request, with names in lower case.
        path: Appended to the path of the URL, unless that ends with it.
        resolve: Returns the addresses to connect to, so that the checked addresses are those in
            use. If None, the transport looks up the host.
        transport: Transport of the caller, which is not closed; a new one if None.
        wall: Returns seconds since the epoch.

    Attributes:
        origin: Scheme, host and port of the URL, without secrets.
        host: Host name or address of the URL.

    Raises:
        ValueError: `url` is not an HTTP URL.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        headers: Mapping[str, str],
        path: str = "",
        resolve: Resolve | None = None,
        transport: Transport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._destination = parse(url).below(path) if path else parse(url)
        self.origin, self.host = self._destination.origin, self._destination.host
        self._timeout = timeout
        defaults = {"user-agent": "tokenpulse-mw", "content-type": "application/json"}
        if authorization := self._destination.authorization.reveal():
            defaults["authorization"] = authorization
        self._headers = Secret(defaults | dict(headers))
        self._resolve = resolve
        self._callers_transport = transport
        self._own_transport: httpx2.AsyncHTTPTransport | None = None
        self._tls = None if transport else httpx2.create_ssl_context(trust_env=False)
        self._wall = wall

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Make one attempt.

        Raises:
            Rejected: The response means that the receiver will never accept the body.
            RetryLater: There is no valid response, or one that allows a retry.
        """
        try:
            with anyio.fail_after(self._timeout):
                status, response_headers = await self._attempt(
                    body, Secret(self._headers.reveal() | dict(headers or {}))
                )
        except TimeoutError:
            raise RetryLater(f"{self.origin} timed out after {self._timeout:g} s") from None
        except Rejected:
            raise  # by `resolve`
        except Exception as error:  # noqa: BLE001 - a transport of the caller may raise anything
            # The error itself is omitted: its text and traceback may contain the URL or headers.
            raise RetryLater(f"{self.origin} request failed ({type(error).__name__})") from None
        check_response(self.origin, status, response_headers, self._wall())

    async def aclose(self) -> None:
        """Close the connections; the next attempt opens new ones."""
        transport, self._own_transport = self._own_transport, None
        if transport is not None:
            await transport.aclose()

    async def _attempt(
        self, body: bytes, headers: Secret[dict[str, str]]
    ) -> tuple[int, httpx2.Headers]:
        """Send to the first address that accepts a connection."""
        url = self._destination.url.reveal()
        if self._resolve is None:
            return await self._send(url, body, headers)
        addresses = await self._resolve(self._destination.host, self._destination.port)
        *others, last = [url.copy_with(host=address) for address in addresses]
        share = 1 / len(addresses)
        for other in others:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._send(other, body, headers, share=share)
        return await self._send(last, body, headers, share=share)

    async def _send(
        self, url: httpx2.URL, body: bytes, headers: Secret[dict[str, str]], *, share: float = 1
    ) -> tuple[int, httpx2.Headers]:
        """Send to `url`; `Host` and the certificate are those of the destination."""
        timeout = httpx2.Timeout(self._timeout, connect=self._timeout * share)
        host = self._destination.url.reveal().netloc.decode("ascii")
        request = httpx2.Request(
            "POST",
            url,
            headers={"host": host} | headers.reveal(),
            content=body,
            extensions={"timeout": timeout.as_dict(), "sni_hostname": self._destination.host},
        )
        response: httpx2.Response = await self._transport().handle_async_request(request)
        try:
            await _read(response)
        finally:
            await response.aclose()
        return response.status_code, response.headers

    def _transport(self) -> Transport:
        if self._callers_transport is not None:
            return self._callers_transport
        if self._own_transport is None:
            self._own_transport = httpx2.AsyncHTTPTransport(
                verify=self._tls or True, trust_env=False, limits=_LIMITS
            )
        return self._own_transport


async def _read(response: httpx2.Response) -> None:
    """Read a short body to its end, so that the connection can be reused; stop in a long one."""
    size = 0
    # The raw body is not decompressed. Cancelling also ends the generators below `aiter_raw`.
    with anyio.CancelScope() as scope:
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > _MAX_BODY_BYTES:
                scope.cancel()


def check_response(origin: str, status: int, headers: Mapping[str, str], now: float) -> None:
    """Return if the receiver has accepted the request.

    Args:
        origin: Origin of the receiver, without secrets, for the error.
        status: Status of the response.
        headers: Headers of the response, with names in lower case.
        now: Seconds since the epoch.

    Raises:
        Rejected: The receiver will never accept it.
        RetryLater: The receiver may accept it later.
    """
    if 200 <= status < 300:
        return
    reason = f"{origin} responded with {status}"
    if 300 <= status < 400:
        reason += ", and redirects are not followed: use the URL of its target"
    if status in _PERMANENT_REDIRECTS or (400 <= status < 500 and status not in _RETRY_STATUSES):
        raise Rejected(reason, status=status)
    raise RetryLater(reason, after=parse_retry_after(headers.get("retry-after", ""), now))


def parse_retry_after(retry_after: str, now: float) -> float | None:
    """Return the seconds of a Retry-After header, from 0 to an hour; None if it is invalid."""
    retry_after = retry_after.strip()
    if _SECONDS.fullmatch(retry_after):
        return min(float(retry_after), _MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - now
    except (ValueError, OverflowError, OSError):
        return None
    return max(0.0, min(seconds, _MAX_RETRY_AFTER_SECONDS))


class Destination(NamedTuple):
    """Parsed URL of a receiver.

    Attributes:
        url: URL without user information; shown as its scheme, host and port.
        authorization: Basic authentication from the user information; empty without it.
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
    def origin(self) -> str:
        """Scheme, host and port, which logs and errors may show."""
        return str(self.url)

    @property
    def host(self) -> str:
        """Host name, or an address without brackets."""
        return self.url.reveal().raw_host.decode("ascii")

    @property
    def port(self) -> int:
        """Port of the URL, or the default port of its scheme."""
        url = self.url.reveal()
        return url.port or (443 if url.scheme == "https" else 80)


def parse(url: str, name: str = "url") -> Destination:
    """Parse an HTTP URL. Errors do not quote it, because it may be a secret.

    Args:
        url: The URL.
        name: Name of the parameter, for the error.

    Raises:
        ValueError: `url` is not an HTTP URL.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise ValueError(f"{name} {_EXPECTED}, got a value that is not a URL") from None
    problem = _problem(parsed)
    if problem:
        raise ValueError(f"{name} {_EXPECTED}, got a URL {problem}")
    bare = parsed.copy_with(userinfo=None, fragment=None)
    origin = f"{bare.scheme}://{bare.netloc.decode('ascii')}"
    return Destination(Secret(bare, shown=origin), Secret(_basic(parsed)))


def _problem(url: httpx2.URL) -> str:
    """Return the reason why `url` is invalid; empty if it is valid."""
    host = url.raw_host.decode("ascii")
    if url.scheme not in ("http", "https"):
        return "with another scheme"
    if ":" not in host and not _HOST.fullmatch(host):
        return "without a valid host"
    if url.port is not None and not 1 <= url.port <= 65535:
        return "with an invalid port"
    return ""


def _basic(url: httpx2.URL) -> str:
    """Return Basic authentication with the user information of `url`."""
    if not url.userinfo:
        return ""
    login = f"{url.username}:{url.password}".encode()
    return f"Basic {base64.b64encode(login).decode('ascii')}"
