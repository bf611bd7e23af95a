"""Alert events, which sinks receive, and the protocol of a sink."""

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
        finding: The last finding; its severity is the alert's.
        at: Time of the transition in seconds since the epoch.
        id: Id of the event, the same in each attempt: letters, digits, `_` and `-`. Derived from
            the other fields if empty.
        alert_id: Id of the episode, from "fired" to "resolved".
        previous: Severity before "escalated" or "deescalated".
        fired_at: Start of the episode in seconds since the epoch.

    Raises:
        ValueError: `id` has invalid characters, or too many.
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
        """Fingerprint of the alert."""
        return self.finding.fingerprint

    @property
    def began(self) -> float:
        """Start of the episode in seconds since the epoch, at most `at`; `at` if unknown."""
        return self.at if self.fired_at is None else min(self.fired_at, self.at)

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON values; times are RFC 3339 in UTC.

        Any finding becomes valid JSON: text is valid UTF-8, numbers are finite or None, and other
        types become text.
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
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the event that `to_dict` has converted.

        Raises:
            ValueError: `values` are not those of an event.
        """
        try:
            value = values["value"]
            finding = Finding(
                type=values["type"],
                subject=Subject(**values["subject"]),
                severity=values["severity"],
                title=values["title"],
                message=values["message"],
                metric=values["metric"] or "",
                value=float("nan") if value is None else value,
                metadata=values["metadata"],
            )
            return cls(
                values["transition"],
                finding,
                _seconds(values["at"]),
                id=values["id"],
                alert_id=values["alert_id"] or "",
                previous=values["previous_severity"],
                fired_at=None if values["fired_at"] is None else _seconds(values["fired_at"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"event must be a result of AlertEvent.to_dict(), got one with {error!r}"
            ) from None

    def _derived_id(self) -> str:
        parts = (self.alert_id, self.fingerprint, self.transition, repr(float(self.at)))
        seed = "\n".join(parts).encode("utf-8", "backslashreplace")
        return f"evt_{hashlib.sha256(seed).hexdigest()[:32]}"


class Sink(Protocol):
    """Function of an event, async or not, that returns when the receiver has accepted the event.

    It raises `Rejected` if the receiver will never accept the event, and `RetryLater` if it may
    accept it later. Other exceptions count as `RetryLater`.
    """

    def __call__(self, event: AlertEvent, /) -> Awaitable[object] | None:
        """Deliver one event."""
        ...


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as date and time in UTC, in milliseconds.

    Raises:
        ValueError: `seconds` is after the year 9999 or not finite.
    """
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"time must be seconds since the epoch, got {seconds!r}") from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
