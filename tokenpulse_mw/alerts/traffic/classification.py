"""Classification of exchanges: failures, and the upstream that they came from."""

from __future__ import annotations

from typing import NamedTuple

from ...exchange import UNKNOWN
from . import Streak

# "apikey" and the id of the annotated credential, otherwise "provider" and its name.
Upstream = tuple[str, str]


GATEWAY = ""  # the subject of exchanges that have no key, master or provider


class TrafficKey(NamedTuple):
    """The classified fields of an exchange; its tenant and key are not among them."""

    provider: str
    credential: str | None
    status: int
    outcome: str
    limited: bool
    method: str
    bucket: int  # of its duration, by the bounds of the windows


class TrafficClass:
    """Exchanges with the same `TrafficKey`; their number does not depend on the tenants.

    Attributes:
        provider: The provider; the gateway if unknown.
        bucket: Bucket of the duration.
        requests: Number of requests not yet counted by class.
        limited: Rejected by the gateway's own limit.
        refused: Responded with 429.
        is_traffic: Counts as traffic; preflights do not.
        is_judged: Counts for error rates. Requests rejected by the gateway's limit do not: they
            never reached the application and would dilute the error rate. Client disconnects do
            not either.
        is_failure: The server failed, also in a stream that began with 200.
        fails_key: Counts as a failure of the key.
        upstream: The upstream whose health the outcome shows, if any.
        streak: Streak of the upstream.
    """

    __slots__ = (
        "bucket",
        "fails_key",
        "is_failure",
        "is_judged",
        "is_traffic",
        "limited",
        "provider",
        "refused",
        "requests",
        "streak",
        "upstream",
    )

    def __init__(self, seen: TrafficKey, *, count_client_errors: bool) -> None:
        self.provider = GATEWAY if seen.provider == UNKNOWN else seen.provider
        self.bucket = seen.bucket
        self.requests = 0
        self.limited = seen.limited
        self.refused = seen.limited or seen.status == 429
        self.is_traffic = seen.method != "OPTIONS"
        left = seen.outcome == "client_disconnect"
        self.is_judged = self.is_traffic and not seen.limited and not left
        self.is_failure = seen.status >= 500 or seen.outcome != "complete"
        self.fails_key = self.is_failure or (count_client_errors and seen.status >= 400)
        self.upstream = self._upstream(seen)
        self.streak: Streak | None = None

    def _upstream(self, seen: TrafficKey) -> Upstream | None:
        if not self.is_judged or (seen.status >= 300 and not self.is_failure):
            return None  # redirects and client errors do not show the health of the upstream
        # The provider of a failure is often unknown; a credential identifies the upstream anyway.
        if seen.credential:
            return "apikey", seen.credential
        return ("provider", self.provider) if self.provider != GATEWAY else None
