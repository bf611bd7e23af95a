"""Rule for upstreams that fail several times in a row."""

from __future__ import annotations

from collections.abc import Iterator

from ..lifecycle import Finding, Subject
from ..thresholds import Thresholds
from ..traffic.traffic import Traffic
from .rule import display_name, escaped


class _ProviderDown:
    """Rule that finds credentials or providers that failed many times in a row.

    At least half of the last 20 outcomes must be failures too. The alert ends `keep_firing` seconds
    after a success that no failure follows; without further traffic the upstream stays down.
    """

    name = "provider_down"

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        threshold = thresholds.provider_failures
        if threshold is None:
            return
        for (kind, identity), streak in traffic.upstreams.failing():
            fires = (
                streak.failures >= threshold
                and streak.recent_failures * 2 >= streak.recent_outcomes
            )
            subject = Subject(kind, identity, streak.group or streak.name)
            title = name = display_name(subject)
            metadata: dict[str, object] = {"failures": streak.failures, "threshold": threshold}
            if kind == "apikey":
                group = f" in group {subject.name!r}" if subject.name else ""
                metadata["provider"] = streak.name
                title, name = "Provider API key", f"API Key ID {escaped(identity)}{group}"
            failures, requests = streak.recent()
            yield Finding(
                type="provider_down",
                subject=subject,
                severity="critical" if fires else None,
                title=f"{title} failing ({failures} failures)",
                message=f"{name} has {failures} failures out of {requests} requests "
                f"({failures / requests:.1%} failure rate)",
                value=streak.failures,
                metadata=metadata,
                keep_firing=thresholds.keep_firing,
                window=0,  # the failures in a row are stored
            )


provider_down = _ProviderDown()
