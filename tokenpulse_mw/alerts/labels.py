"""What alerts are sorted by: in Alertmanager, and by silences."""

from __future__ import annotations

from .lifecycle import Finding, Severity

NAMES = ("alertname", "severity", "subject_kind", "subject_id", "metric", "provider")


def labels_of(finding: Finding, severity: Severity | None) -> dict[str, str]:
    """All labels of an alert that has, or had, this severity; those it has not are empty."""
    subject = finding.subject
    values = (
        finding.type,
        severity or "",
        subject.kind,
        subject.id,
        finding.metric,
        _provider(finding),
    )
    return dict(zip(NAMES, map(str, values), strict=True))


def _provider(finding: Finding) -> str:
    """The provider that the alert is about, where it is about one."""
    subject = finding.subject
    if subject.kind in ("provider", "apikey"):
        return subject.id if subject.kind == "provider" else subject.name
    provider = finding.metadata.get("provider")
    return provider if isinstance(provider, str) else ""
