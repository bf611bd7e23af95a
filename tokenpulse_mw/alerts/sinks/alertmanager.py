"""The sink that keeps Alertmanagers told of what fires, by their API v2."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import anyio

from ...seconds import check_seconds
from ...secret import hide_arguments
from .am_alert import Alert, Form, alerts_of, check_labels, firing
from .am_peer import Peer
from .errors import Rejected
from .event import AlertEvent
from .http_sink import need_httpx2, open_post
from .transport import Transport

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
        check_seconds("resend_every", resend_every, longest=86_400)
        self.resend_every = resend_every
        self._form = Form(check_labels(labels), _checked(generator_url), _LIFETIMES * resend_every)
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


def _still(event: AlertEvent, form: Form, now: float) -> list[Alert]:
    """The alert, if it can be written at all; what cannot was rejected when it was told."""
    with suppress(Exception):
        return [firing(event, form, now)]
    return []


def _checked(generator_url: str | None) -> str:
    """The URL as it is sent, empty where there is none."""
    if generator_url is None:
        return ""
    need_httpx2("AlertmanagerSink")
    from .destination import parse

    return str(parse(generator_url, "generator_url").url.reveal())
