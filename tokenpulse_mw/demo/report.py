"""What was measured in the demo, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from .clients import CALLS
from .scenario import Stage

_PLACES = ("/metrics", "/health", "/health/ready", "/api/credentials/status")


def report(stage: Stage, kept: Mapping[str, bool]) -> str:
    """Requests by status, tokens by provider, alerts, promises, and where to look further."""
    return "\n".join(_lines(stage, kept))


def _lines(stage: Stage, kept: Mapping[str, bool]) -> Iterator[str]:
    yield ""
    yield "requests by status"
    for status, number in sorted(_by_status(stage).items()):
        yield f"  {status}  {number:>6.0f}"
    yield "tokens by provider      input    output"
    for provider in CALLS:
        read, written = (
            stage.sample("tokenpulse_llm_tokens_total", provider=provider, kind=kind)
            for kind in ("input", "output")
        )
        yield f"  {provider:<16} {read:>10.0f}{written:>10.0f}"
    yield "alerts"
    for (alert, transition), number in sorted(stage.told().items()):
        yield f"  {alert} {transition} {number}x"
    yield "promised"
    for promise, true in kept.items():
        yield f"  [{'ok' if true else 'FAILED'}] {promise}"
    yield "look at"
    for place in _PLACES:
        yield f"  {stage.url}{place}"


def _by_status(stage: Stage) -> Counter[str]:
    statuses: Counter[str] = Counter()
    for metric in stage.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "tokenpulse_http_requests_total":
                statuses[sample.labels["status"]] += int(sample.value)
    return statuses
