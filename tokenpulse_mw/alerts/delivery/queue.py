"""What waits for one sink, in an order in which no end of an alert overtakes its beginning."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count

from ..sinks import AlertEvent
from ..store.records import Notification

_MAX_PER_ALERT = 8  # letters of one alert; then what is out of date goes


@dataclass(slots=True, eq=False)
class QueuedNotification:
    """One event for one sink.

    Attributes:
        notification: As it is kept.
        event: What the sink is told.
        due: When the sink is to be asked, in seconds of the engine's clock.
        attempts: How often the sink was asked.
        since: When it was put here, in seconds of the engine's clock.
    """

    notification: Notification
    event: AlertEvent
    due: float
    attempts: int = 0
    since: float = 0.0


class NotificationQueue:
    """Letters by their alerts: of each alert only the first is handed out.

    Where many letters of one alert wait, changes of severity give way to the newest, and episodes
    that are over before anyone heard of them to the one that lasts. Beyond `most` the alert that
    has waited longest goes.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._alerts: dict[str, deque[QueuedNotification]] = {}
        self._heads: list[tuple[float, int, QueuedNotification]] = []
        self._order = count()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._alerts

    def put(self, letter: QueuedNotification) -> list[QueuedNotification]:
        """Let a letter wait behind those of the same alert, and give those that go for it."""
        fingerprint = letter.event.fingerprint
        waiting = self._alerts.setdefault(fingerprint, deque())
        gone = _outdated(list(waiting)[1:]) if len(waiting) >= _MAX_PER_ALERT else []
        for each in gone:
            waiting.remove(each)
        waiting.append(letter)
        self._waiting += 1 - len(gone)
        if len(waiting) == 1:
            self._hand_out(letter)
        if self._waiting > self._most:
            gone += self._drop_oldest(fingerprint)
        return gone

    def due(self, now: float) -> QueuedNotification | None:
        """The letter that has been due longest."""
        first = self._first()
        return first if first is not None and first.due <= now else None

    def next_at(self) -> float | None:
        """When the next letter is due; None where nothing waits."""
        first = self._first()
        return None if first is None else first.due

    def done(self, letter: QueuedNotification) -> None:
        """A letter that was handed out does not wait any more."""
        fingerprint = letter.event.fingerprint
        waiting = self._alerts.get(fingerprint)
        if waiting is None or waiting[0] is not letter:
            return  # it had to go while it was under way
        waiting.popleft()
        self._waiting -= 1
        if waiting:
            self._hand_out(waiting[0])
        else:
            del self._alerts[fingerprint]

    def postpone(self, letter: QueuedNotification, due: float) -> bool:
        """A letter that was handed out waits until `due`, and those of the same alert with it.

        False says that it had to go while it was under way.
        """
        waiting = self._alerts.get(letter.event.fingerprint)
        if waiting is None or waiting[0] is not letter:
            return False
        letter.due = due
        self._hand_out(letter)
        return True

    def _first(self) -> QueuedNotification | None:
        while self._heads:
            due, _, letter = self._heads[0]
            waiting = self._alerts.get(letter.event.fingerprint)
            if waiting is not None and waiting[0] is letter and letter.due == due:
                return letter
            heapq.heappop(self._heads)
        return None

    def _hand_out(self, letter: QueuedNotification) -> None:
        heapq.heappush(self._heads, (letter.due, next(self._order), letter))

    def _drop_oldest(self, newest: str) -> list[QueuedNotification]:
        oldest = next(iter(self._alerts))
        if oldest == newest:
            return []
        gone = self._alerts.pop(oldest)
        self._waiting -= len(gone)
        return list(gone)


def _outdated(letters: list[QueuedNotification]) -> list[QueuedNotification]:
    """Those letters of one alert that say nothing that is still so."""
    begun = {each.event.alert_id for each in letters if each.event.transition == "fired"}
    ended = {each.event.alert_id for each in letters if each.event.transition == "resolved"}
    changes = [each for each in letters if each.event.transition in ("escalated", "deescalated")]
    return [
        each for each in letters if each.event.alert_id in begun & ended or each in changes[:-1]
    ]
