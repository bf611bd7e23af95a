"""One Alertmanager: what it was told when, and what it does with what it is sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ...outages import Outage
from ..lifecycle import Severity
from .am_alert import Alert
from .errors import Rejected
from .event import AlertEvent
from .transport import Post

_MOST_AT_ONCE = 250  # alerts in one request
_NOT_ALL = {400, 413, 422}  # what is answered although, or because, only some are refused

_log = logging.getLogger("tokenpulse_mw.alerts")


class Peer:
    """Sends alerts to one Alertmanager, and remembers when it was last told of what fires.

    Args:
        post: Sends to it.
        clock: Monotonic seconds.

    Attributes:
        place: Scheme, host and port, with no secret in it.
    """

    def __init__(self, post: Post, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.place = post.place
        self._post = post
        self._told: dict[tuple[str, Severity | None], float] = {}
        self._outage = Outage(_log, clock=clock)

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Send alerts, all that can be taken.

        Raises:
            Rejected: It refuses some, or all of them.
            Later: It could not be told.
        """
        refused: list[Rejected] = []
        for start in range(0, len(alerts), _MOST_AT_ONCE):
            await self._send(alerts[start : start + _MOST_AT_ONCE], refused)
        if refused:
            raise refused[0]

    def has(self, event: AlertEvent, now: float) -> None:
        """Remember that it was told of this event."""
        if event.previous is not None:
            self._told.pop((event.fingerprint, event.previous), None)
        if event.transition == "resolved":
            self._told.pop(_key(event), None)
        else:
            self._told[_key(event)] = now

    def due(self, events: Iterable[AlertEvent], before: float) -> list[AlertEvent]:
        """Those of `events`, which are all that fires, that it was told by `before` or never."""
        firing = {_key(event): event for event in events}
        self._told = {key: at for key, at in self._told.items() if key in firing}
        return [event for key, event in firing.items() if self._told.get(key, before) <= before]

    def failed(self, error: Exception) -> None:
        """Count that it could not be reached, and log it if a line is due."""
        self._outage.failed("Alertmanager %s cannot be told of all alerts: %s", self.place, error)

    def answered(self) -> None:
        """Log that it is reached again, if it was not."""
        self._outage.recovered("Alertmanager %s is told of all alerts again", self.place)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._post.aclose()

    async def _send(self, alerts: Sequence[Alert], refused: list[Rejected]) -> None:
        """Send alerts in one request, or where it refuses that, each half by itself."""
        try:
            await self._post.post(msgspec.json.encode(alerts))
        except Rejected as error:
            if error.status not in _NOT_ALL:
                raise
            if len(alerts) == 1:
                name = alerts[0]["labels"]["alertname"]
                refused.append(Rejected(f"{error} to an alert {name!r}", status=error.status))
                return
            half = len(alerts) // 2
            await self._send(alerts[:half], refused)
            await self._send(alerts[half:], refused)


def _key(event: AlertEvent) -> tuple[str, Severity | None]:
    return event.fingerprint, event.finding.severity
