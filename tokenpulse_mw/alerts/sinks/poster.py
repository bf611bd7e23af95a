"""One attempt to POST, by httpx2: only who has that installed may import this."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio
import httpx2

from ...secret import Secret
from .answers import judge
from .destination import parse
from .errors import Later, Rejected
from .public import Find
from .transport import Transport

_LIMITS = httpx2.Limits(max_connections=8, max_keepalive_connections=2, keepalive_expiry=5)
_MOST_READ = 4096  # bytes of an answer, counted after the first piece of it


class Poster:
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
            raise Later(f"{self.place} did not answer within {self._timeout:g} s") from None
        except Rejected:
            raise  # by the look-up of the host, in our own words
        except Exception as error:  # noqa: BLE001 - a transport of the user may raise anything
            # The error itself is left out: its text and its traceback may show the URL or headers.
            raise Later(f"{self.place} cannot be asked ({type(error).__name__})") from None
        judge(self.place, status, answered, self._wall())

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
