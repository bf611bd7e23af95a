"""What is told of an alert, and to whom."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, Self

from ..lifecycle import Finding, Severity, Subject, Transition
from ..serialization import json_safe, number

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One transition of one alert.

    Attributes:
        transition: "fired", "escalated", "deescalated", "reminded" or "resolved".
        finding: What is, or was, wrong; its severity is the alert's.
        at: When, in seconds since the epoch.
        id: The event's own, the same however often it is delivered: letters, digits, `_` and
            `-`. It is derived from the rest where none is given.
        alert_id: Of the episode that began with "fired", and ends with "resolved".
        previous: The severity before "escalated" or "deescalated".
        fired_at: When the episode began, in seconds since the epoch.

    Raises:
        ValueError: `id` would not fit into a header.
    """

    transition: Transition
    finding: Finding
    at: float
    id: str = ""
    alert_id: str = ""
    previous: Severity | None = None
    fired_at: float | None = None

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self._derived_id())
        elif not _ID.fullmatch(self.id):
            raise ValueError(
                f"id of an AlertEvent must be 1 to 128 letters, digits, '_' or '-', got {self.id!r}"
            )

    @property
    def fingerprint(self) -> str:
        """Which alert it is."""
        return self.finding.fingerprint

    @property
    def began(self) -> float:
        """When the episode began, as far as is known, in seconds since the epoch."""
        return self.at if self.fired_at is None else min(self.fired_at, self.at)

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON has it; times are RFC 3339 in UTC.

        Whatever a rule has put into its finding, what comes out can be written as JSON: text is
        valid UTF-8, numbers are finite or None, and what JSON does not know is written as text.
        """
        finding = self.finding
        event = {
            "id": self.id,
            "alert_id": self.alert_id or None,
            "transition": self.transition,
            "at": rfc3339(self.at),
            "fired_at": None if self.fired_at is None else rfc3339(self.fired_at),
            "fingerprint": self.fingerprint,
            "type": finding.type,
            "metric": finding.metric or None,
            "severity": finding.severity,
            "previous_severity": self.previous,
            "subject": finding.subject._asdict(),
            "title": finding.title,
            "message": finding.message,
            "value": number(finding.value),
            "metadata": finding.metadata,
        }
        return {name: json_safe(value) for name, value in event.items()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The event that `to_dict` gave this of, as far as sinks can tell the difference.

        Raises:
            ValueError: `told` is no event.
        """
        try:
            value = told["value"]
            finding = Finding(
                type=told["type"],
                subject=Subject(**told["subject"]),
                severity=told["severity"],
                title=told["title"],
                message=told["message"],
                metric=told["metric"] or "",
                value=float("nan") if value is None else value,
                metadata=told["metadata"],
            )
            return cls(
                told["transition"],
                finding,
                _seconds(told["at"]),
                id=told["id"],
                alert_id=told["alert_id"] or "",
                previous=told["previous_severity"],
                fired_at=None if told["fired_at"] is None else _seconds(told["fired_at"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"an event must be what AlertEvent.to_dict() gives, got one with {error!r}"
            ) from None

    def _derived_id(self) -> str:
        parts = (self.alert_id, self.fingerprint, self.transition, repr(float(self.at)))
        seed = "\n".join(parts).encode("utf-8", "backslashreplace")
        return f"evt_{hashlib.sha256(seed).hexdigest()[:32]}"


class Sink(Protocol):
    """Anything that can be called with an event, and awaited; a function that is not async will do.

    It returns when the event was taken. It raises `Rejected` where the event will never be, and
    `Later` where it may be; whatever else it raises counts as `Later`.
    """

    def __call__(self, event: AlertEvent, /) -> Awaitable[object] | None:
        """Tell somebody."""
        ...


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as a date and time in UTC, to the millisecond.

    Raises:
        ValueError: `seconds` is beyond the year 9999, or not finite.
    """
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"time must be seconds since the epoch, got {seconds!r}") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
