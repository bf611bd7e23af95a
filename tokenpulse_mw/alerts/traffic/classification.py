"""Classification of exchanges: failures, and the upstream that they came from."""

from __future__ import annotations

from typing import NamedTuple

from ...exchange import UNKNOWN, upstream_failed
from .streaks import Outcomes

# "apikey" and the id of the annotated credential, otherwise "provider" and its name.
Upstream = tuple[str, str]


GATEWAY = ""  # the subject of exchanges that have no key, master or provider


def valid_text(text: str) -> str:
    """Return `text` as valid UTF-8, so that it can be encoded: lone surrogates are escaped."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


class TrafficKey(NamedTuple):
    """Fields of an exchange that determine its class; tenant and key do not."""

    provider: str
    credential: str | None
    status: int
    outcome: str
    limited: bool
    method: str
    bucket: int  # of the latency, by the bounds of the windows


class TrafficClass:
    """Class of the exchanges with the same `TrafficKey`.

    Attributes:
        provider: The provider; the gateway if unknown.
        bucket: Bucket of the time to the first byte; without a body, of the duration.
        requests: Number of requests not yet counted by class.
        limited: Rejected by the gateway's own limit.
        rate_limited: Responded with 429, or rejected by the gateway's own limit.
        is_traffic: Counts as traffic; preflights do not.
        is_rated: Counts for error rates. Client disconnects do not, and requests rejected by the
            gateway's limit neither: they never reached the application and would dilute the rate.
        is_failure: The server failed, also in a stream that began with 200.
        fails_key: Counts as a failure of the key.
        upstream: The upstream whose health the outcome shows, if any.
        outcomes: Outcomes of the upstream in the current bucket.
        is_rejected: The provider rejected the credential.
        credential: The credential whose authentication failed or succeeded, if any.
        authentications: Outcomes of this credential in the current bucket.
    """

    __slots__ = (
        "authentications",
        "bucket",
        "credential",
        "fails_key",
        "is_failure",
        "is_rated",
        "is_rejected",
        "is_traffic",
        "limited",
        "outcomes",
        "provider",
        "rate_limited",
        "requests",
        "upstream",
    )

    def __init__(self, key: TrafficKey, *, count_client_errors: bool) -> None:
        self.provider = GATEWAY if key.provider == UNKNOWN else valid_text(key.provider)
        self.bucket = key.bucket
        self.requests = 0
        self.limited = key.limited
        self.rate_limited = key.limited or key.status == 429
        self.is_traffic = key.method != "OPTIONS"
        left = key.outcome == "client_disconnect"
        self.is_rated = self.is_traffic and not key.limited and not left
        self.is_failure = key.status >= 500 or key.outcome != "complete"
        self.fails_key = self.is_failure or (count_client_errors and key.status >= 400)
        self.upstream = self._upstream(key)
        self.outcomes: Outcomes | None = None
        self.is_rejected = self.is_rated and key.status in (401, 403) and bool(key.credential)
        self.credential: str | None = None
        if key.credential and (self.is_rejected or (self.upstream and not self.is_failure)):
            self.credential = valid_text(key.credential)
        self.authentications: Outcomes | None = None

    def _upstream(self, key: TrafficKey) -> Upstream | None:
        failed = upstream_failed(
            method=key.method, status=key.status, outcome=key.outcome, limited=key.limited
        )
        if failed is None:
            return None
        # The provider of a failure is often unknown; a credential identifies the upstream anyway.
        if key.credential:
            return "apikey", valid_text(key.credential)
        return ("provider", self.provider) if self.provider != GATEWAY else None
