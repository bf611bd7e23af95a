"""Entry point of the demo: starts vendor and gateway, runs the scenario, prints the report."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from math import inf

import anyio
from prometheus_client import CollectorRegistry

from .. import AlertEngine, AlertEvent, HttpMetrics, Rates, Settings, Thresholds, TokenPulse
from .clients import CALLS
from .gateway import build_gateway
from .scenario import LIMIT, RunningDemo, check_results, run_scenario, send_until
from .server import LocalServer
from .vendor import Vendor

_ENDPOINTS = ("/admin/", "/metrics", "/health", "/health/ready", "/api/credentials/status")


def run_demo(*, seconds: float | None = None, port: int = 0) -> int:
    """Run the demo, and return its exit code: 0 if all checks pass, else 1.

    Args:
        seconds: Time to run, but not less than the scenario takes; until Ctrl-C if None.
        port: Port of the gateway; 0 selects a free one.

    Raises:
        PortError: The port is not available.
    """
    deadline = inf if seconds is None else time.monotonic() + seconds
    vendor, token = Vendor(), secrets.token_urlsafe()
    events: list[AlertEvent] = []

    async def print_alert(event: AlertEvent) -> None:
        events.append(event)
        _print(f"alert {event.transition}: id={event.fingerprint} title={event.finding.title!r}")

    with LocalServer(vendor.app) as vendor_server:
        pulse = TokenPulse(
            service="tokenpulse demo",
            providers=list(CALLS),
            settings=Settings(
                limit=f"{LIMIT}/minute", trusted_proxies=("127.0.0.0/8",), admin_token=token
            ),
            credentials=dict.fromkeys(CALLS, True),
            prices={"*-demo": Rates(input="1.25", output=10)},
            # Seconds instead of the minutes of a real gateway.
            engine=AlertEngine(
                sinks=[print_alert],
                interval=0.25,
                thresholds=Thresholds(error_window=2, keep_firing=1, traffic_keep_firing=1),
            ),
            metrics=HttpMetrics(CollectorRegistry()),
        )
        gateway = build_gateway(vendor_server.url)
        pulse.install(gateway)
        with LocalServer(gateway, port=port) as gateway_server:
            _print(f"gateway started: url={gateway_server.url} vendor={vendor_server.url}")
            _print(f"open {gateway_server.url}/admin/  token: {token}")
            try:
                demo = RunningDemo(gateway_server.url, vendor, pulse.metrics, events)
                return anyio.run(_run, demo, deadline)
            except KeyboardInterrupt:
                _print("demo stopped")
                return 0


async def _run(demo: RunningDemo, deadline: float) -> int:
    await run_scenario(demo, _print)
    results = check_results(demo)
    _print(report(demo, results))
    _print(f"traffic started: until={'Ctrl-C' if deadline == inf else 'end'}")
    await send_until(demo, deadline)
    return 0 if all(results.values()) else 1


def _print(line: str) -> None:
    print(line, flush=True)


def report(demo: RunningDemo, results: Mapping[str, bool]) -> str:
    """Return requests by status, tokens by provider, alerts, results of the checks, and URLs."""
    return "\n".join(_lines(demo, results))


def _lines(demo: RunningDemo, results: Mapping[str, bool]) -> Iterator[str]:
    yield ""
    yield "requests by status"
    for status, count in sorted(_by_status(demo).items()):
        yield f"  {status}  {count:>6.0f}"
    yield "tokens by provider      input    output"
    for provider in CALLS:
        read, written = (demo.tokens(provider, kind) for kind in ("input", "output"))
        yield f"  {provider:<16} {read:>10.0f}{written:>10.0f}"
    yield "alerts"
    for (alert, transition), count in sorted(demo.transitions().items()):
        yield f"  {alert} {transition} {count}x"
    yield "checks"
    for check, passed in results.items():
        yield f"  [{'ok' if passed else 'FAILED'}] {check}"
    yield "endpoints"
    for path in _ENDPOINTS:
        yield f"  {demo.url}{path}"


def _by_status(demo: RunningDemo) -> Counter[str]:
    statuses: Counter[str] = Counter()
    for metric in demo.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "tokenpulse_http_requests_total":
                statuses[sample.labels["status"]] += int(sample.value)
    return statuses
