"""The sink that posts alerts as JSON to any URL, signed as Standard Webhooks has it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping, Sequence

from ...secret import Secret, hide_arguments
from .base import Transport
from .event import AlertEvent, rfc3339
from .http import HttpSink, to_json


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
        await self._poster.post(body, sign(self._keys, event.id, int(self._wall()), body))


def _message(event: AlertEvent) -> dict[str, object]:
    return {
        "type": f"alert.{event.transition}",
        "timestamp": rfc3339(event.at),
        "data": event.to_dict(),
    }


_PREFIX = "whsec_"


_EXPECTED = (
    "secret must be 'whsec_' and the base64 of 24 to 64 random bytes, "
    "such as 'whsec_' + base64.b64encode(os.urandom(32)).decode()"
)


def parse_secrets(secret: str | Sequence[str] | None) -> Secret[tuple[bytes, ...]]:
    """Return the keys to sign with. Errors do not quote a secret.

    Raises:
        ValueError: One is not of the form that Standard Webhooks has.
    """
    if secret is None:
        return Secret(())
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets:
        raise ValueError(f"{_EXPECTED}, got an empty list: to send unsigned, leave secret out")
    return Secret(tuple(_key(each) for each in secrets))


def sign(keys: Secret[tuple[bytes, ...]], id: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers of a webhook: what it is, when it is sent, and one signature for each key."""
    headers = {"webhook-id": id, "webhook-timestamp": str(seconds)}
    content = f"{id}.{seconds}.".encode() + body
    digests = [hmac.digest(key, content, hashlib.sha256) for key in keys.reveal()]
    signatures = [f"v1,{base64.b64encode(digest).decode('ascii')}" for digest in digests]
    return headers | ({"webhook-signature": " ".join(signatures)} if signatures else {})


def _key(secret: str) -> bytes:
    if not isinstance(secret, str) or not secret.startswith(_PREFIX):
        raise ValueError(f"{_EXPECTED}, got one that does not begin with 'whsec_'")
    text = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError(f"{_EXPECTED}, got one that is not base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"{_EXPECTED}, got one of {len(key)} bytes")
    return key
