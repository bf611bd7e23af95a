"""Scenario of the demo, and the checks of its results."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import httpx2

from .. import AlertEvent, HttpMetrics
from .clients import CALLS, Client, ClientStats
from .vendor import WORD_DELAY, Vendor

LIMIT = 100  # requests per minute of one client
BURST = 150

EXPECTED_ALERTS = ("rate_limit:system:0", "provider_down:apikey:gemini-demo")
INHIBITED_ALERT = "error_spike:key:unlucky"  # explained by the provider that is down

_MAX_CONCURRENT_REQUESTS = 10
# Tenant, provider, and seconds of each stream. The requests of "batch-jobs" exceed its limit.
_READERS = (
    ("blue-harbor", "claude", 8.0),
    ("north-wind", "codex", 3.0),
    ("research", "claude", 20.0),
)
_ACCEPTED_SECONDS, _REJECTED_SECONDS = 40.0, 20.0
_ALERT_TIMEOUT = 15.0  # seconds for an alert to fire or resolve


@dataclass
class RunningDemo:
    """The running demo.

    Attributes:
        url: URL of the gateway.
        vendor: Vendor behind the gateway.
        metrics: Metrics of the gateway.
        events: Notifications of the gateway's alert engine so far.
        stats: Responses that the clients received.
    """

    url: str
    vendor: Vendor
    metrics: HttpMetrics
    events: list[AlertEvent]
    stats: ClientStats = field(default_factory=ClientStats)

    def client(self, http: httpx2.AsyncClient, address: str, tenant: str) -> Client:
        """Return a client of a tenant with an address."""
        return Client(http, self.stats, address=address, tenant=tenant)

    def sample(self, name: str, **labels: str) -> float:
        """Return the value of a series of the gateway, or 0 without one."""
        return self.metrics.registry.get_sample_value(name, labels) or 0

    def tokens(self, provider: str, kind: str) -> float:
        """Return the tokens of all models of a provider."""
        return sum(
            row[0]
            for family, rows in self.metrics.series()
            if family.name == "tokenpulse_llm_tokens_total"
            for (owner, _, of), row in rows.items()
            if (owner, of) == (provider, kind)
        )

    def transitions(self) -> Counter[tuple[str, str]]:
        """Return the number of notifications by fingerprint and transition."""
        return Counter((event.fingerprint, event.transition) for event in self.events)


async def run_scenario(demo: RunningDemo, log: Callable[[str], None]) -> None:
    """Run all steps once, and log the beginning of each."""
    async with httpx2.AsyncClient(base_url=demo.url, timeout=30, trust_env=False) as http:
        log(f"requests started: providers={','.join(CALLS)} modes=plain,stream")
        steady = demo.client(http, "203.0.113.1", "acme")
        for provider in CALLS:
            await steady.send(provider)
            await steady.stream(provider)
        log(f"burst started: requests={BURST} limit={LIMIT}/minute")
        await _burst(demo, http)
        log("client disconnect started: provider=claude")
        leaving = demo.client(http, "203.0.113.4", "acme")
        await leaving.stream("claude", disconnect=True, words=500)
        log("vendor outage started: provider=gemini")
        await _outage(demo, http)


async def send_until(demo: RunningDemo, deadline: float) -> None:
    """Send traffic that is worth looking at until `deadline` on the monotonic clock.

    Tenants read streams of some seconds, one exceeds its limit now and then, and the key for gemini
    is rejected for a while.
    """
    async with httpx2.AsyncClient(base_url=demo.url, timeout=30, trust_env=False) as http:
        visitor = demo.client(http, "203.0.113.8", "acme")
        await visitor.send("codex")
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return
        with anyio.move_on_after(remaining):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_repeat, 1.0, partial(visitor.send, "codex"))
                for number, (tenant, provider, seconds) in enumerate(_READERS):
                    reader = demo.client(http, f"203.0.113.{20 + number}", tenant)
                    words = int(seconds / WORD_DELAY)
                    read = partial(reader.stream, provider, words=words)
                    tasks.start_soon(_repeat, 0.5, read)
                batch = demo.client(http, "203.0.113.30", "batch-jobs")
                tasks.start_soon(_repeat, 0.3, partial(batch.send, "claude"))
                caller = demo.client(http, "203.0.113.31", "research")
                tasks.start_soon(_repeat, 1.0, partial(caller.send, "gemini"))
                tasks.start_soon(_reject_for_a_while, demo)


async def _repeat(pause: float, call: Callable[[], Awaitable[object]]) -> None:
    while True:
        await call()
        await anyio.sleep(pause)


async def _reject_for_a_while(demo: RunningDemo) -> None:
    """Let the vendor reject the key for gemini for 20 seconds of each minute."""
    while True:
        await anyio.sleep(_ACCEPTED_SECONDS)
        demo.vendor.rejects_gemini = True
        await anyio.sleep(_REJECTED_SECONDS)
        demo.vendor.rejects_gemini = False


async def _burst(demo: RunningDemo, http: httpx2.AsyncClient) -> None:
    eager = demo.client(http, "203.0.113.2", "eager")
    calm = demo.client(http, "203.0.113.3", "calm")
    limiter = anyio.CapacityLimiter(_MAX_CONCURRENT_REQUESTS)

    async def send() -> None:
        async with limiter:
            await eager.send("codex")

    async with anyio.create_task_group() as tasks:
        for _ in range(BURST):
            tasks.start_soon(send)
        for _ in range(5):
            await calm.send("codex")


async def _outage(demo: RunningDemo, http: httpx2.AsyncClient) -> None:
    unlucky = demo.client(http, "203.0.113.5", "unlucky")
    demo.vendor.down = True
    for _ in range(20):
        await unlucky.send("gemini")
    await _wait_for_alerts(demo, "fired")
    demo.vendor.down = False
    await unlucky.send("gemini")
    await _wait_for_alerts(demo, "resolved")


async def _wait_for_alerts(demo: RunningDemo, transition: str) -> None:
    """Wait until all expected alerts have the transition, or the timeout expires."""
    expected = {(alert, transition) for alert in EXPECTED_ALERTS}
    with anyio.move_on_after(_ALERT_TIMEOUT):
        while not expected <= demo.transitions().keys():  # noqa: ASYNC110 - set by another thread
            await anyio.sleep(0.1)


def check_results(demo: RunningDemo) -> dict[str, bool]:
    """Return the description of each check, and True if the results pass it."""
    statuses, transitions = demo.stats.statuses, demo.transitions()
    name = "tokenpulse_http_requests_total"
    route = {"method": "POST", "route": "/codex/v1/chat/completions", "provider": "codex"}
    return {
        f"{LIMIT} of {BURST} requests are allowed, the others get 429": (
            statuses["203.0.113.2", 200] == LIMIT and statuses["203.0.113.2", 429] == BURST - LIMIT
        ),
        "another client is not limited": statuses["203.0.113.3", 200] == 5,
        "each 429 is counted under its route and provider": (
            demo.sample(name, status="429", **route) == BURST - LIMIT
        ),
        "metered tokens equal the usage in the responses": all(
            demo.tokens(provider, kind) == demo.stats.tokens[provider, kind]
            for provider in CALLS
            for kind in ("input", "output")
        ),
        "the client disconnect is counted as such": demo.sample(
            "tokenpulse_http_responses_total", provider="claude", outcome="client_disconnect"
        )
        == 1,
        "each alert fires once and resolves once": all(
            transitions[alert, transition] == 1
            for alert in EXPECTED_ALERTS
            for transition in ("fired", "resolved")
        ),
        "no alert for the consequences of the outage": transitions[INHIBITED_ALERT, "fired"] == 0,
    }
