"""Sink that keeps firing alerts up to date in Alertmanagers, through their API v2."""

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
from ...web.text import single_line
from ..lifecycle import NAMES, Finding, Severity, labels_of
from ..serialization import number
from .base import PostClient, Rejected, Transport
from .event import AlertEvent, rfc3339
from .http import create_client, require_httpx2

_PATH = "/api/v2/alerts"
_LIFETIMES = 4  # as in Prometheus: an alert expires after three lost requests
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MAX_LABEL_CHARS, _MAX_ANNOTATION_CHARS = 200, 2000
_MAX_BATCH = 250  # alerts in one request
_BATCH_STATUSES = {400, 413, 422}  # responses to a batch of which some alerts may be acceptable

logger = logging.getLogger("tokenpulse_mw.alerts")

Alert = dict[str, Any]


class AlertmanagerSink:
    """Sends all alerts to each of several Alertmanagers, which deduplicate notifications.

    An alert expires if it is not sent again, so none outlives a killed gateway. For that,
    the engine calls `resend` with all firing alerts in each evaluation. An event is delivered if
    one Alertmanager accepts it; the others receive the firing alerts by the next `resend`.

    Args:
        urls: URLs of the Alertmanagers, such as "http://alertmanager:9093", with the path of
            `--web.external-url`. Do not use the URL of a load balancer.
        timeout: Seconds for one attempt.
        resend_every: Seconds after which a firing alert is sent again; not less than the
            engine's `interval`. An alert expires after four times as long.
        generator_url: URL at which users can inspect an alert.
        labels: Labels of every alert, such as {"cluster": "eu-1"}. Do not use labels that differ
            between replicas of the gateway, because each replica would create its own alerts.
        headers: Additional headers.
        transport: As in `WebhookSink`.
        wall: Returns seconds since the epoch.

    Raises:
        ValueError: An argument is invalid, or httpx2 is not installed.
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
        self._options = AlertOptions(
            check_labels(labels), _check_generator_url(generator_url), _LIFETIMES * resend_every
        )
        self._wall = wall
        self._peers = [
            Peer(
                create_client(
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
        return f"AlertmanagerSink({[peer.origin for peer in self._peers]!r})"

    async def __call__(self, event: AlertEvent) -> None:
        """Make one attempt with each Alertmanager.

        Raises:
            Rejected: No Alertmanager will ever accept this event.
            RetryLater: No Alertmanager accepted it now.
        """
        now = self._wall()
        try:
            alerts = alerts_of(event, self._options, now)
        except Exception as error:
            raise Rejected(
                f"event cannot be converted to an alert ({type(error).__name__})"
            ) from error

        async def send(peer: Peer) -> None:
            await peer.send(alerts)
            peer.mark_sent(event, now)

        await self._send_to_all(send)

    async def resend(self, events: Sequence[AlertEvent], now: float) -> None:
        """Send the firing alerts again that are due, for each Alertmanager.

        Args:
            events: The last event of each firing alert.
            now: Seconds since the epoch, as in `wall`.

        Raises:
            Rejected: All Alertmanagers reject an alert; they have accepted the others.
            RetryLater: No Alertmanager accepted the alerts now.
        """
        lasting = [event for event in events if event.transition != "resolved"]

        async def send(peer: Peer) -> None:
            due = peer.due(lasting, now - self.resend_every)
            await peer.send(
                [alert for event in due for alert in _valid_alerts(event, self._options, now)]
            )
            for event in due:
                peer.mark_sent(event, now)

        await self._send_to_all(send)

    async def aclose(self) -> None:
        """Close the connections; the sink opens new ones if it is used again."""
        for peer in self._peers:
            await peer.aclose()

    async def _send_to_all(self, send: Callable[[Peer], Awaitable[None]]) -> None:
        """Send to all Alertmanagers concurrently; raise only if all fail, else log failures."""
        failures: list[Exception] = []

        async def attempt(peer: Peer) -> None:
            try:
                await send(peer)
            except Exception as error:  # noqa: BLE001 - a failure must not affect other peers
                failures.append(error)
                peer.failed(error)
            else:
                peer.recovered()

        async with anyio.create_task_group() as tasks:
            for peer in self._peers:
                tasks.start_soon(attempt, peer)
        if len(failures) == len(self._peers):
            # If one Alertmanager may accept the event later, it is retried.
            raise min(failures, key=lambda error: isinstance(error, Rejected))


def _valid_alerts(event: AlertEvent, options: AlertOptions, now: float) -> list[Alert]:
    """Return the firing alert; nothing if it is invalid, for `__call__` has rejected it."""
    with suppress(Exception):
        return [firing(event, options, now)]
    return []


def _check_generator_url(generator_url: str | None) -> str:
    """Return the normalized URL; empty if it is None."""
    if generator_url is None:
        return ""
    require_httpx2("AlertmanagerSink")
    from .http_client import parse

    return str(parse(generator_url, "generator_url").url.reveal())


class AlertOptions(NamedTuple):
    """Options of all alerts of a sink.

    Attributes:
        labels: Labels of every alert.
        generator_url: URL at which users can inspect an alert; empty for none.
        lifetime: Seconds after which an alert expires if it is not sent again.
    """

    labels: Mapping[str, str]
    generator_url: str
    lifetime: float


def alerts_of(event: AlertEvent, options: AlertOptions, now: float) -> list[Alert]:
    """Return the alerts of an event; a change of severity first resolves the old alert.

    Severity is a label, so each severity is a different alert in Alertmanager.
    """
    if event.transition == "resolved":
        return [_alert(event, event.finding.severity, options, ends=event.at)]
    alerts = [firing(event, options, now)]
    if event.previous not in (None, event.finding.severity):
        alerts.insert(0, _alert(event, event.previous, options, ends=event.at))
    return alerts


def firing(event: AlertEvent, options: AlertOptions, now: float) -> Alert:
    """Return an alert that expires if it is not sent again."""
    return _alert(event, event.finding.severity, options, ends=now + options.lifetime)


def check_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Return the additional labels.

    Raises:
        ValueError: A name or value is invalid, or the sink sets the label itself.
    """
    for name, value in (labels or {}).items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise ValueError(f"name of a label must match {_LABEL.pattern}, got {name!r}")
        if name in NAMES:
            raise ValueError(f"label {name!r} is set by the sink: choose another name")
        if not isinstance(value, str) or not value or value != _label_value(value):
            raise ValueError(
                f"value of the label {name!r} must be text of 1 to {_MAX_LABEL_CHARS} "
                f"printable characters, got {value!r}"
            )
    return dict(labels or {})


def _alert(
    event: AlertEvent, severity: Severity | None, options: AlertOptions, *, ends: float
) -> Alert:
    alert = {
        "labels": dict(options.labels) | _labels(event.finding, severity),
        "annotations": _annotations(event.finding),
        # Alertmanager rejects alerts that start after they end.
        "startsAt": rfc3339(min(event.began, ends)),
        "endsAt": rfc3339(ends),
    }
    return alert | ({"generatorURL": options.generator_url} if options.generator_url else {})


def _labels(finding: Finding, severity: Severity | None) -> dict[str, str]:
    """Return the labels that identify the alert; Alertmanager drops empty ones."""
    labels = labels_of(finding, severity)
    return {name: text for name, value in labels.items() if (text := _label_value(value))}


def _annotations(finding: Finding) -> dict[str, str]:
    annotations = {
        "summary": finding.title,
        "description": finding.message,
        "value": f"{number(finding.value) or 0.0:g}",
    }
    if finding.subject.name:
        annotations["subject_name"] = finding.subject.name
    if finding.runbook_url:
        annotations["runbook_url"] = finding.runbook_url
    return {name: single_line(text, _MAX_ANNOTATION_CHARS) for name, text in annotations.items()}


def _label_value(value: str) -> str:
    """Return a valid label value; a changed value gets a hash of the original, to stay unique."""
    value = str(value)
    text = single_line(value, _MAX_LABEL_CHARS)
    if text == value:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[: _MAX_LABEL_CHARS - len(digest) - 1]}-{digest}"


class Peer:
    """One Alertmanager, with the time at which each firing alert was last sent to it.

    Args:
        client: Client of the Alertmanager.
        clock: Returns monotonic seconds.

    Attributes:
        origin: Scheme, host and port, without secrets.
    """

    def __init__(self, client: PostClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.origin = client.origin
        self._client = client
        self._sent_at: dict[tuple[str, Severity | None], float] = {}
        self._outage = Outage(logger, clock=clock)

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Send alerts in batches; an invalid alert does not prevent the others.

        Raises:
            Rejected: The Alertmanager rejects some alerts, or all.
            RetryLater: The Alertmanager did not accept the alerts now.
        """
        rejections: list[Rejected] = []
        for start in range(0, len(alerts), _MAX_BATCH):
            await self._send(alerts[start : start + _MAX_BATCH], rejections)
        if rejections:
            raise rejections[0]

    def mark_sent(self, event: AlertEvent, now: float) -> None:
        """Store that the alert of this event was sent."""
        if event.previous is not None:
            self._sent_at.pop((event.fingerprint, event.previous), None)
        if event.transition == "resolved":
            self._sent_at.pop(_key(event), None)
        else:
            self._sent_at[_key(event)] = now

    def due(self, events: Iterable[AlertEvent], before: float) -> list[AlertEvent]:
        """Return the events of the firing alerts that were last sent by `before`, or never."""
        firing = {_key(event): event for event in events}
        self._sent_at = {key: at for key, at in self._sent_at.items() if key in firing}
        return [event for key, event in firing.items() if self._sent_at.get(key, before) <= before]

    def failed(self, error: Exception) -> None:
        """Count a failure, and log it if a line is due."""
        self._outage.failed("Alertmanager failed: url=%s error=%s", self.origin, error)

    def recovered(self) -> None:
        """End the outage, if there is one, and log it."""
        self._outage.recovered("Alertmanager recovered: url=%s", self.origin)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, alerts: Sequence[Alert], rejections: list[Rejected]) -> None:
        """Send alerts in one request; if it is rejected, send each half separately."""
        try:
            await self._client.post(msgspec.json.encode(alerts))
        except Rejected as error:
            if error.status not in _BATCH_STATUSES:
                raise
            if len(alerts) == 1:
                name = alerts[0]["labels"]["alertname"]
                rejections.append(Rejected(f"{error} to alert {name!r}", status=error.status))
                return
            half = len(alerts) // 2
            await self._send(alerts[:half], rejections)
            await self._send(alerts[half:], rejections)


def _key(event: AlertEvent) -> tuple[str, Severity | None]:
    return event.fingerprint, event.finding.severity
