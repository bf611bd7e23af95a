"""Upstreams that fail every time."""

from __future__ import annotations

from collections.abc import Iterator

from ..lifecycle import Finding, Subject
from ..thresholds import Thresholds
from ..traffic.traffic import Traffic


class _ProviderDown:
    """A credential (or a provider) failed many times in a row, and at least half of late.

    It ends with the first success. A provider that gets no more traffic stays down: that nobody
    asks it any longer is no sign of health.
    """

    name = "provider_down"

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        threshold = thresholds.provider_failures
        if threshold is None:
            return
        for (kind, identity), streak in list(traffic.upstreams.failing()):
            if not streak.failures:  # it has succeeded since the evaluation began
                yield None
                continue
            provider = streak.name or "of unknown name"
            fires = streak.failures >= threshold and streak.failed_lately * 2 >= streak.seen
            called = f"API key {identity!r} of {provider}" if kind == "apikey" else provider
            yield Finding(
                type="provider_down",
                subject=Subject(kind, identity, streak.name),
                severity="critical" if fires else None,
                title=f"Provider {provider} failing ({streak.failures} failures)",
                message=f"{called} failed {streak.failures} times in a row",
                value=streak.failures,
                metadata={"failures": streak.failures, "threshold": threshold},
                keep_firing=thresholds.keep_firing,
                window=0,  # the failures in a row are taken up again by `resume`
            )

    def resume(self, traffic: Traffic, finding: Finding) -> None:
        """Go on counting failures in a row where the process before this one ended."""
        kind, identity, name = finding.subject
        traffic.upstreams.resume((kind, identity), name=name, failures=int(finding.value))


provider_down = _ProviderDown()
