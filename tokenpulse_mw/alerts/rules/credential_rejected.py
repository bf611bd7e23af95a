"""Rule for credentials that a provider rejects."""

from __future__ import annotations

from collections.abc import Iterator

from ..lifecycle import Finding, Subject
from ..thresholds import Thresholds
from ..traffic.traffic import Traffic
from .rule import escaped


class _CredentialRejected:
    """Rule that finds credentials with 401 or 403 several times in a row.

    Only the credentials of `annotate(credential=...)` are known: without one, a client may have
    sent an invalid token to the gateway. The alert ends `keep_firing` seconds after a successful
    response; without further traffic the credential stays rejected.
    """

    name = "credential_rejected"

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        threshold = thresholds.credential_rejections
        if threshold is None:
            return
        for identity, streak in traffic.authentications.failing():
            name = streak.group or streak.name
            group = f" in group {name!r}" if name else ""
            yield Finding(
                type="credential_rejected",
                subject=Subject("apikey", identity, name),
                severity="critical" if streak.failures >= threshold else None,
                title=f"Provider API key rejected ({streak.failures} times in a row)",
                message=f"API Key ID {escaped(identity)}{group} got {streak.failures} responses "
                "with 401 or 403 in a row: it is revoked, expired or not permitted",
                value=streak.failures,
                metadata={
                    "rejections": streak.failures,
                    "threshold": threshold,
                    "provider": streak.name,
                },
                keep_firing=thresholds.keep_firing,
                window=0,  # the rejections in a row are stored
            )


credential_rejected = _CredentialRejected()
