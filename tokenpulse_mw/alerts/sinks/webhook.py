"""Sink that posts alerts as JSON to a URL, signed according to Standard Webhooks."""

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

_PREFIX = "whsec_"
_EXPECTED = (
    "secret must be 'whsec_' and the base64 of 24 to 64 random bytes, "
    "such as 'whsec_' + base64.b64encode(os.urandom(32)).decode()"
)


class WebhookBase(HttpSink):
    """Base class of sinks that sign according to Standard Webhooks."""

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


class WebhookSink(WebhookBase):
    """Posts `{"type": "alert.fired", "timestamp": ..., "data": {...}}` for each event.

    `data` is `AlertEvent.to_dict()`. The header `webhook-id` is the id of the event, the same in
    each attempt. Redirects are not followed.

    Args:
        url: URL of the receiver. User information in it is sent as Basic authentication. It may
            be a secret, so logs and errors show only its scheme, host and port.
        secret: Signing secret, "whsec_" and base64. A list of secrets adds a signature of each,
            so that receivers can rotate them.
        timeout: Seconds for one attempt.
        headers: Additional headers, such as Authorization.
        allow_private: Set it to False if users choose the URL, to protect your network: all
            addresses of its host must be public, and the sink connects to the checked address.
        transport: Transport of httpx2 with your TLS settings or proxy; the sink does not close it.
        wall: Returns seconds since the epoch.

    Raises:
        ValueError: An argument is invalid, or httpx2 is not installed.
    """

    async def __call__(self, event: AlertEvent) -> None:
        """Make one attempt.

        Raises:
            Rejected: The receiver will never accept this event.
            RetryLater: The receiver did not accept it now.
        """
        body = to_json(lambda: _message(event))
        await self._client.post(body, sign(self._keys, event.id, int(self._wall()), body))


def _message(event: AlertEvent) -> dict[str, object]:
    return {
        "type": f"alert.{event.transition}",
        "timestamp": rfc3339(event.at),
        "data": event.to_dict(),
    }


def parse_secrets(secret: str | Sequence[str] | None) -> Secret[tuple[bytes, ...]]:
    """Return the signing keys. Errors do not quote a secret.

    Raises:
        ValueError: A secret does not have the format of Standard Webhooks.
    """
    if secret is None:
        return Secret(())
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets:
        raise ValueError(f"{_EXPECTED}, got an empty list; omit secret to send unsigned webhooks")
    return Secret(tuple(map(_key, secrets)))


def sign(keys: Secret[tuple[bytes, ...]], id: str, seconds: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook: id, timestamp, and one signature for each key."""
    headers = {"webhook-id": id, "webhook-timestamp": str(seconds)}
    content = f"{id}.{seconds}.".encode() + body
    digests = [hmac.digest(key, content, hashlib.sha256) for key in keys.reveal()]
    signatures = [f"v1,{base64.b64encode(digest).decode('ascii')}" for digest in digests]
    return headers | ({"webhook-signature": " ".join(signatures)} if signatures else {})


def _key(secret: str) -> bytes:
    if not isinstance(secret, str) or not secret.startswith(_PREFIX):
        raise ValueError(f"{_EXPECTED}, got a secret that does not begin with 'whsec_'")
    text = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError(f"{_EXPECTED}, got a secret that is not base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"{_EXPECTED}, got a secret of {len(key)} bytes")
    return key
