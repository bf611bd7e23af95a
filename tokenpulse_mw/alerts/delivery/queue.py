"""Queue of one sink, which keeps the notifications of each alert in order."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count

from ..sinks import AlertEvent
from ..store.records import Notification

_MAX_PER_ALERT = 8  # notifications; beyond it, outdated ones are dropped


@dataclass(slots=True, eq=False)
class QueuedNotification:
    """One event for one sink.

    Attributes:
        record: The notification as it is stored.
        event: The event.
        due: Time of the next attempt, on the engine's clock.
        attempts: Number of attempts.
        queued_at: Time at which it was queued, on the engine's clock.
    """

    record: Notification
    event: AlertEvent
    due: float
    attempts: int = 0
    queued_at: float = 0.0


class NotificationQueue:
    """Queue of notifications in which only the first one of each alert can be due.

    If many notifications of one alert wait, outdated ones are dropped: all changes of severity but
    the newest, and episodes that ended before their first delivery. If the queue is full, all
    notifications of the alert that has waited longest are dropped.

    Args:
        max_size: Maximum number of notifications.
    """

    def __init__(self, *, max_size: int) -> None:
        self._max_size = max_size
        self._by_alert: dict[str, deque[QueuedNotification]] = {}
        self._heads: list[tuple[float, int, QueuedNotification]] = []
        self._numbers = count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._by_alert

    def put(self, notification: QueuedNotification) -> list[QueuedNotification]:
        """Queue a notification and return those that were dropped."""
        fingerprint = notification.event.fingerprint
        waiting = self._by_alert.setdefault(fingerprint, deque())
        dropped = _outdated(list(waiting)[1:]) if len(waiting) >= _MAX_PER_ALERT else []
        for outdated in dropped:
            waiting.remove(outdated)
        waiting.append(notification)
        self._size += 1 - len(dropped)
        if len(waiting) == 1:
            self._push(notification)
        if self._size > self._max_size:
            dropped += self._drop_oldest(fingerprint)
        return dropped

    def next_due(self, now: float) -> QueuedNotification | None:
        """Return the notification that has been due longest, or None."""
        head = self._head()
        return head if head is not None and head.due <= now else None

    def next_due_at(self) -> float | None:
        """Return the time at which the next notification is due; None if the queue is empty."""
        head = self._head()
        return None if head is None else head.due

    def remove(self, notification: QueuedNotification) -> None:
        """Remove a notification that was due."""
        fingerprint = notification.event.fingerprint
        waiting = self._by_alert.get(fingerprint)
        if waiting is None or waiting[0] is not notification:
            return  # it was dropped during the attempt
        waiting.popleft()
        self._size -= 1
        if waiting:
            self._push(waiting[0])
        else:
            del self._by_alert[fingerprint]

    def postpone(self, notification: QueuedNotification, due: float) -> bool:
        """Delay a notification that was due, and those of the same alert behind it.

        Returns:
            False if it was dropped during the attempt.
        """
        waiting = self._by_alert.get(notification.event.fingerprint)
        if waiting is None or waiting[0] is not notification:
            return False
        notification.due = due
        self._push(notification)
        return True

    def _head(self) -> QueuedNotification | None:
        while self._heads:
            due, _, head = self._heads[0]
            waiting = self._by_alert.get(head.event.fingerprint)
            if waiting is not None and waiting[0] is head and head.due == due:
                return head
            heapq.heappop(self._heads)
        return None

    def _push(self, head: QueuedNotification) -> None:
        heapq.heappush(self._heads, (head.due, next(self._numbers), head))

    def _drop_oldest(self, newest: str) -> list[QueuedNotification]:
        """Drop the alert that has waited longest, unless it is `newest`."""
        oldest = next(iter(self._by_alert))
        if oldest == newest:
            return []
        dropped = self._by_alert.pop(oldest)
        self._size -= len(dropped)
        return list(dropped)


def _outdated(waiting: list[QueuedNotification]) -> list[QueuedNotification]:
    """Return the notifications of one alert that later ones make superfluous."""
    begun = {item.event.alert_id for item in waiting if item.event.transition == "fired"}
    ended = {item.event.alert_id for item in waiting if item.event.transition == "resolved"}
    changes = [item for item in waiting if item.event.transition in ("escalated", "deescalated")]
    return [
        item for item in waiting if item.event.alert_id in begun & ended or item in changes[:-1]
    ]
