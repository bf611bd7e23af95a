"""Signatures as Standard Webhooks has them, so that a receiver knows who sent it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from ...secret import Secret

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


def signed(keys: Secret[tuple[bytes, ...]], id: str, seconds: int, body: bytes) -> dict[str, str]:
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
