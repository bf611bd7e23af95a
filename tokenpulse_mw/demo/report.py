"""Text report of the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from .clients import CALLS
from .scenario import RunningDemo

_ENDPOINTS = ("/metrics", "/health", "/health/ready", "/api/credentials/status")


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
        read, written = (
            demo.sample("tokenpulse_llm_tokens_total", provider=provider, kind=kind)
            for kind in ("input", "output")
        )
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
