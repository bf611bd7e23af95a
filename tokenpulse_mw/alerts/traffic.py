"""What the engine remembers of the traffic: the view that rules are given."""

from __future__ import annotations

from ..exchange import UNKNOWN, Exchange
from .thresholds import Thresholds
from .windows import SlidingCounts, Streaks, Tally

GATEWAY = ""  # the subject of exchanges that the application gave no key or master


# Who answered for the gateway: "apikey" and the credential's id where the application annotated
# one, else "provider" and its name.
Upstream = tuple[str, str]


class Traffic:
    """Counts of exchanges by subject.

    Attributes:
        errors: Requests and failures of each key, over the error window.
        upstreams: How each upstream has fared lately.
        limited: Limited requests of each master, since the last round.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        self.errors = SlidingCounts(window=thresholds.error_window, max_subjects=max_subjects)
        self.upstreams: Streaks[Upstream] = Streaks(max_subjects=max_subjects)
        self.limited = Tally(max_subjects=max_subjects)
        self._lowest_error = 400 if thresholds.count_client_errors else 500

    def observe(self, exchange: Exchange, now: float) -> None:
        """Count one exchange, `now` being when it ended."""
        if exchange.limited:
            # Our own 429 never reached the application: it is no error of anyone's, and must
            # not make the errors of those who were served look rare.
            self.limited.add(exchange.master or GATEWAY)
            return
        outcome, status = exchange.outcome, exchange.status
        if outcome == "client_disconnect" or exchange.method == "OPTIONS":
            return  # neither a client that left nor a preflight says how a request fares
        broken = outcome != "complete"
        failed = broken or status >= self._lowest_error
        self.errors.add(exchange.key or GATEWAY, failed=failed, now=now)
        if exchange.provider == UNKNOWN and not exchange.credential:
            return
        if broken or status >= 500:
            self._note_upstream(exchange, failed=True)
        elif status < 300:  # redirects and clients' errors are not the upstream's doing
            self._note_upstream(exchange, failed=False)

    def _note_upstream(self, exchange: Exchange, *, failed: bool) -> None:
        # A failure often does not tell whose it was, so a credential is the same whoever answers.
        name = "" if exchange.provider == UNKNOWN else exchange.provider
        if exchange.credential:
            self.upstreams.add(("apikey", exchange.credential), failed=failed, name=name)
        else:
            self.upstreams.add(("provider", name), failed=failed, name=name)
