"""What happens in the demo, in order, and what must come of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import httpx2

from .. import AlertEvent, HttpMetrics
from .clients import CALLS, Client, Seen
from .vendor import Vendor

LIMIT = 100  # requests of one client in a minute
BURST = 150

_AT_ONCE = 10
_LONGEST_WAIT = 15.0  # seconds for an alert to fire or to be resolved


@dataclass
class Stage:
    """The running demo.

    Attributes:
        url: The gateway's.
        vendor: Stands behind the gateway.
        metrics: The gateway's.
        events: What the gateway's alert engine has told, as it tells it.
        seen: What the clients have seen.
    """

    url: str
    vendor: Vendor
    metrics: HttpMetrics
    events: list[AlertEvent]
    seen: Seen = field(default_factory=Seen)

    def client(self, http: httpx2.AsyncClient, address: str, tenant: str) -> Client:
        """A client that asks from `address` in the name of `tenant`."""
        return Client(http, self.seen, address=address, tenant=tenant)

    def sample(self, name: str, **labels: str) -> float:
        """The value of one of the gateway's series, 0 where there is none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0

    def told(self) -> Counter[tuple[str, str]]:
        """How often each alert was fired and resolved: by fingerprint and transition."""
        return Counter((event.fingerprint, event.transition) for event in self.events)


async def play(stage: Stage, say: Callable[[str], None]) -> None:
    """Let everything happen once."""
    async with httpx2.AsyncClient(base_url=stage.url, timeout=30, trust_env=False) as http:
        say("three providers, plain and streamed")
        steady = stage.client(http, "203.0.113.1", "acme")
        for provider in CALLS:
            await steady.ask(provider)
            await steady.ask_streaming(provider)
        say(f"a client sends {BURST} requests, {LIMIT} a minute are allowed")
        await _burst(stage, http)
        say("a client hangs up in the middle of a stream")
        leaving = stage.client(http, "203.0.113.4", "acme")
        await leaving.ask_streaming("claude", hang_up=True, words=500)
        say("the vendor goes down, alerts fire; it comes back, they are resolved")
        await _outage(stage, http)


async def keep_on(stage: Stage, until: float) -> None:
    """A little traffic, one request a second, until the monotonic clock says `until`."""
    async with httpx2.AsyncClient(base_url=stage.url, timeout=30, trust_env=False) as http:
        visitor = stage.client(http, "203.0.113.8", "acme")
        await visitor.ask("codex")
        while (left := until - time.monotonic()) > 0:
            await anyio.sleep(min(left, 1))
            await visitor.ask("codex")


async def _burst(stage: Stage, http: httpx2.AsyncClient) -> None:
    eager = stage.client(http, "203.0.113.2", "eager")
    calm = stage.client(http, "203.0.113.3", "calm")
    turns = anyio.CapacityLimiter(_AT_ONCE)

    async def ask() -> None:
        async with turns:
            await eager.ask("codex")

    async with anyio.create_task_group() as tasks:
        for _ in range(BURST):
            tasks.start_soon(ask)
        for _ in range(5):
            await calm.ask("codex")


async def _outage(stage: Stage, http: httpx2.AsyncClient) -> None:
    unlucky = stage.client(http, "203.0.113.5", "unlucky")
    stage.vendor.down = True
    for _ in range(20):
        await unlucky.ask("gemini")
    await _until(lambda: len(_episodes(stage, "fired")) == len(EXPECTED_ALERTS))
    stage.vendor.down = False
    await unlucky.ask("gemini")
    await _until(lambda: len(_episodes(stage, "resolved")) == len(EXPECTED_ALERTS))


async def _until(happened: Callable[[], bool]) -> None:
    with anyio.move_on_after(_LONGEST_WAIT):
        while not happened():  # noqa: ASYNC110 - it happens in the servers' threads
            await anyio.sleep(0.1)


EXPECTED_ALERTS = ("rate_limit:system:0", "provider_down:apikey:gemini-demo")
EXPLAINED = "error_spike:key:unlucky"  # by the provider that is down


def _episodes(stage: Stage, transition: str) -> set[str]:
    return {alert for alert, told in stage.told() if told == transition} & set(EXPECTED_ALERTS)


def promises(stage: Stage) -> dict[str, bool]:
    """Everything the demo promises, and whether it has come true."""
    statuses, told = stage.seen.statuses, stage.told()
    name = "tokenpulse_http_requests_total"
    route = {"method": "POST", "route": "/codex/v1/chat/completions", "provider": "codex"}
    return {
        f"{LIMIT} of {BURST} requests answered, the others 429": (
            statuses["203.0.113.2", 200] == LIMIT and statuses["203.0.113.2", 429] == BURST - LIMIT
        ),
        "the client beside them untouched": statuses["203.0.113.3", 200] == 5,
        "each 429 counted under its route and provider": (
            stage.sample(name, status="429", **route) == BURST - LIMIT
        ),
        "tokens metered as the vendors told the clients": all(
            stage.sample("tokenpulse_llm_tokens_total", provider=provider, kind=kind)
            == stage.seen.tokens[provider, kind]
            for provider in CALLS
            for kind in ("input", "output")
        ),
        "the client that hung up counted as such": stage.sample(
            "tokenpulse_http_responses_total", provider="claude", outcome="client_disconnect"
        )
        == 1,
        "each alert fired once and resolved once": all(
            told[alert, transition] == 1
            for alert in EXPECTED_ALERTS
            for transition in ("fired", "resolved")
        ),
        "no alert for what another one explains": told[EXPLAINED, "fired"] == 0,
    }
