"""The sink that posts alerts as JSON to any URL, signed as Standard Webhooks has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ...secret import hide_arguments
from .event import AlertEvent, rfc3339
from .http_sink import HttpSink, to_json
from .signature import parse_secrets, signed
from .transport import Transport


class WebhookSink(HttpSink):
    """Posts `{"type": "alert.fired", "timestamp": ..., "data": {...}}` for each event.

    `data` is `AlertEvent.to_dict()`. The header `webhook-id` is the event's id, the same in each
    attempt. Redirects are not followed.

    Args:
        url: Where to. A name and password in it are sent as Basic authentication. It may be a
            secret, so logs and errors only show its scheme, host and port.
        secret: "whsec_" and base64, to sign with; of several, each gives a signature, so that
            receivers can change from one to the next.
        timeout: Seconds for one attempt.
        headers: Sent as well, such as an Authorization.
        allow_private: False lets nobody lead us into our own network, which matters where users
            set the URL: every address of its host must be public, and the connection is made to
            the address that was checked.
        transport: One of httpx2, with your own TLS settings or a proxy; it is not closed.
        wall: Seconds since the epoch.

    Raises:
        ValueError: One of the settings cannot be, or httpx2 is not installed.
    """

    @hide_arguments
    def __init__(
        self,
        url: str,
        *,
        secret: str | Sequence[str] | None = None,
        timeout: float = 10,
        headers: Mapping[str, str] | None = None,
        allow_private: bool = True,
        transport: Transport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keys = parse_secrets(secret)
        super().__init__(
            url,
            timeout=timeout,
            headers=headers,
            allow_private=allow_private,
            transport=transport,
            wall=wall,
        )

    async def __call__(self, event: AlertEvent) -> None:
        """Make one attempt.

        Raises:
            Rejected: The receiver will never take this event.
            Later: The receiver did not take it now.
        """
        body = to_json(lambda: _message(event))
        await self._poster.post(body, signed(self._keys, event.id, int(self._wall()), body))


def _message(event: AlertEvent) -> dict[str, object]:
    return {
        "type": f"alert.{event.transition}",
        "timestamp": rfc3339(event.at),
        "data": event.to_dict(),
    }
