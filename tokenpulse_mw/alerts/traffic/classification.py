"""What an exchange says of how its key, its provider and its upstream fare."""

from __future__ import annotations

from typing import NamedTuple

from ...exchange import UNKNOWN
from . import Streak

# Who answered for the gateway: "apikey" and the credential's id where the application annotated
# one, else "provider" and its name.
Upstream = tuple[str, str]


GATEWAY = ""  # the subject of exchanges that have no key, master or provider


class TrafficKey(NamedTuple):
    """What matters of an exchange, but for whose it was."""

    provider: str
    credential: str | None
    status: int
    outcome: str
    limited: bool
    method: str
    bucket: int  # of its duration, among the bounds that the windows were made with


class TrafficClass:
    """Exchanges that were seen to be alike; they are few, however many tenants there are.

    Attributes:
        provider: Who answered; the gateway, where that is not known.
        bucket: Of their durations.
        requests: How many there are that are not counted yet.
        limited: Our own limit refused them.
        refused: They were answered with 429.
        is_traffic: They are requests of someone; a preflight is the browser's own doing.
        is_judged: They tell how requests fare. Our own 429 never reached the application: it is
            no error of anyone's, and must not make the errors of those who were served look rare.
            A client that left tells nothing either.
        is_failure: The server failed, and no client; also where an answer that began with 200
            broke.
        fails_key: They count as failures of a key.
        upstream: Whose answers they were, where that is known and they tell how it fares.
        streak: That upstream's.
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
            return None  # redirects and clients' errors are not the upstream's doing
        # A failure often does not tell whose it was: a credential is the same whoever answers.
        if seen.credential:
            return "apikey", seen.credential
        return ("provider", self.provider) if self.provider != GATEWAY else None
