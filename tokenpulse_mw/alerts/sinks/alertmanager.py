"""The sink that keeps Alertmanagers told of what fires, by their API v2."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import anyio
import msgspec

from ...outages import Outage
from ...secret import hide_arguments
from ...validation import check_seconds
from ..lifecycle import NAMES, Finding, Severity, labels_of
from ..serialization import number
from .base import Post, Rejected, Transport
from .event import AlertEvent, rfc3339
from .http import need_httpx2, open_post
from .text import single_line

_PATH = "/api/v2/alerts"


_LIFETIMES = 4  # as Prometheus has it: three re-sends may get lost before an alert is over


class AlertmanagerSink:
    """Tells every one of several Alertmanagers, which sort out among themselves who notifies.

    An alert ends by itself when it is not sent again, so that none outlives a gateway that died:
    let `resend` be called with all that fires, in each round of the engine. An event is taken
    when one Alertmanager has taken it; the others get what fires by the next `resend`.

    Args:
        urls: Of Alertmanagers, such as "http://alertmanager:9093", each with the path that its
            `--web.external-url` gives it. Never one of a load balancer.
        timeout: Seconds for one attempt.
        resend_every: Seconds after which what fires is sent again; not less than the engine's
            `interval`. After four times as long without it an alert is over.
        generator_url: Where the reader of an alert may look closer.
        labels: Added to every alert, such as {"cluster": "eu-1"}. Never what tells replicas of
            the gateway apart, for each would then have alerts of its own.
        headers: Sent as well.
        transport: As in `WebhookSink`.
        wall: Seconds since the epoch.

    Raises:
        ValueError: One of the settings cannot be, or httpx2 is not installed.
    """

    @hide_arguments
    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout: float = 10,
        resend_every: float = 60,
        generator_url: str | None = None,
        labels: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        check_seconds("resend_every", resend_every, maximum=86_400)
        self.resend_every = resend_every
        self._form = AlertOptions(
            check_labels(labels), _checked(generator_url), _LIFETIMES * resend_every
        )
        self._wall = wall
        self._peers = [
            Peer(
                open_post(
                    type(self).__name__,
                    url,
                    timeout=timeout,
                    headers=headers,
                    path=_PATH,
                    transport=transport,
                    wall=wall,
                )
            )
            for url in ([urls] if isinstance(urls, str) else urls)
        ]
        if not self._peers:
            raise ValueError("urls must name at least one Alertmanager, got none")

    def __repr__(self) -> str:
        return f"AlertmanagerSink({[peer.place for peer in self._peers]!r})"

    async def __call__(self, event: AlertEvent) -> None:
        """Make one attempt with each Alertmanager.

        Raises:
            Rejected: None of them will ever take this event.
            Later: None of them took it now.
        """
        now = self._wall()
        try:
            alerts = alerts_of(event, self._form, now)
        except Exception as error:
            raise Rejected(f"the event makes no alert ({type(error).__name__})") from error

        async def tell(peer: Peer) -> None:
            await peer.send(alerts)
            peer.has(event, now)

        await self._each(tell)

    async def resend(self, events: Sequence[AlertEvent], now: float) -> None:
        """Send again what fires, to each Alertmanager what it was told too long ago.

        Args:
            events: The last event of each alert that fires.
            now: Seconds since the epoch, as in `wall`.

        Raises:
            Rejected: Every Alertmanager refuses one of the alerts; it has the others.
            Later: None of the Alertmanagers could be told.
        """
        lasting = [event for event in events if event.transition != "resolved"]

        async def tell(peer: Peer) -> None:
            due = peer.due(lasting, now - self.resend_every)
            await peer.send([alert for event in due for alert in _still(event, self._form, now)])
            for event in due:
                peer.has(event, now)

        await self._each(tell)

    async def aclose(self) -> None:
        """Close the connections. The sink can still be used; it opens new ones then."""
        for peer in self._peers:
            await peer.aclose()

    async def _each(self, tell: Callable[[Peer], Awaitable[None]]) -> None:
        """Tell all Alertmanagers at once; that of several some cannot be told is only logged."""
        failures: list[Exception] = []

        async def attempt(peer: Peer) -> None:
            try:
                await tell(peer)
            except Exception as error:  # noqa: BLE001 - one must not cost the others
                failures.append(error)
                peer.failed(error)
            else:
                peer.answered()

        async with anyio.create_task_group() as tasks:
            for peer in self._peers:
                tasks.start_soon(attempt, peer)
        if len(failures) == len(self._peers):
            # One that may take it later is one that may take it.
            raise min(failures, key=lambda error: isinstance(error, Rejected))


def _still(event: AlertEvent, form: AlertOptions, now: float) -> list[Alert]:
    """The alert, if it can be written at all; what cannot was rejected when it was told."""
    with suppress(Exception):
        return [firing(event, form, now)]
    return []


def _checked(generator_url: str | None) -> str:
    """The URL as it is sent, empty where there is none."""
    if generator_url is None:
        return ""
    need_httpx2("AlertmanagerSink")
    from .http_client import parse

    return str(parse(generator_url, "generator_url").url.reveal())


_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


_LONGEST_LABEL, _LONGEST_ANNOTATION = 200, 2000  # characters


Alert = dict[str, Any]


class AlertOptions(NamedTuple):
    """What all alerts of a sink have in common.

    Attributes:
        labels: Added to every alert.
        generator_url: Where its reader may look closer, empty for nowhere.
        lifetime: Seconds after which an alert that is not sent again is over.
    """

    labels: Mapping[str, str]
    generator_url: str
    lifetime: float


def alerts_of(event: AlertEvent, form: AlertOptions, now: float) -> list[Alert]:
    """What to send of an event; of a change of severity the end of the old alert comes first.

    Severity is a label, so to Alertmanager each severity is an alert of its own.
    """
    if event.transition == "resolved":
        return [_alert(event, event.finding.severity, form, ends=event.at)]
    alerts = [firing(event, form, now)]
    if event.previous not in (None, event.finding.severity):
        alerts.insert(0, _alert(event, event.previous, form, ends=event.at))
    return alerts


def firing(event: AlertEvent, form: AlertOptions, now: float) -> Alert:
    """An alert that ends by itself if it is not sent again."""
    return _alert(event, event.finding.severity, form, ends=now + form.lifetime)


def check_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """The labels that a user adds.

    Raises:
        ValueError: One has a name or value that Alertmanager would not take, or the name of ours.
    """
    for name, value in (labels or {}).items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise ValueError(f"the name of a label must match {_LABEL.pattern}, got {name!r}")
        if name in NAMES:
            raise ValueError(f"the label {name!r} is set by the sink: choose another name")
        if not isinstance(value, str) or not value or value != _identity(value):
            raise ValueError(
                f"the value of the label {name!r} must be text of 1 to {_LONGEST_LABEL} "
                f"printable characters, got {value!r}"
            )
    return dict(labels or {})


def _alert(
    event: AlertEvent, severity: Severity | None, form: AlertOptions, *, ends: float
) -> Alert:
    alert = {
        "labels": dict(form.labels) | _labels(event.finding, severity),
        "annotations": _annotations(event.finding),
        # One that begins after its end is refused.
        "startsAt": rfc3339(min(event.began, ends)),
        "endsAt": rfc3339(ends),
    }
    return alert | ({"generatorURL": form.generator_url} if form.generator_url else {})


def _labels(finding: Finding, severity: Severity | None) -> dict[str, str]:
    """What tells this alert from all others; an empty value would be no label at all."""
    labels = labels_of(finding, severity)
    return {name: text for name, value in labels.items() if (text := _identity(value))}


def _annotations(finding: Finding) -> dict[str, str]:
    annotations = {
        "summary": finding.title,
        "description": finding.message,
        "value": f"{number(finding.value) or 0.0:g}",
    }
    if finding.subject.name:
        annotations["subject_name"] = finding.subject.name
    return {name: single_line(text, _LONGEST_ANNOTATION) for name, text in annotations.items()}


def _identity(value: str) -> str:
    """A label's value; what had to be changed is told apart by a digest of what it was."""
    value = str(value)
    text = single_line(value, _LONGEST_LABEL)
    if text == value:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[: _LONGEST_LABEL - len(digest) - 1]}-{digest}"


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
