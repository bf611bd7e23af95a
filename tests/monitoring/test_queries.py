"""Queries of rules, dashboard and documentation, compared with a live scrape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .files import blocks, panels, rules
from .live import live_samples
from .promql import groupings, matches, parse, selectors

# Labels and series that Prometheus adds.
TARGET_LABELS = {"job", "instance"}
PROMETHEUS_SERIES = {
    "up": [dict[str, str]()],
    "ALERTS": [
        {"alertname": "A", "alertstate": "firing", "service": "tokenpulse", "severity": "warning"}
        | {"provider": "claude"}
    ],
}


def queries(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the source and the text of every query in the files and the documentation."""
    for rule in rules(directory):
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels(directory):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for block in blocks("monitoring.md", "promql"):
        yield "monitoring.md", block


@pytest.fixture(scope="module")
def known(written: Path) -> dict[str, list[dict[str, str]]]:
    """Return label sets by metric: of a gateway, of Prometheus, and of the recording rules."""
    recorded = {
        rule["record"]: [{"provider": "claude"}] for rule in rules(written) if "record" in rule
    }
    live = {
        name: [dict(labels) for labels in label_sets] for name, label_sets in live_samples().items()
    }
    return PROMETHEUS_SERIES | recorded | live


def test_queries_use_existing_metrics(
    written: Path, known: dict[str, list[dict[str, str]]]
) -> None:
    """Each metric is in a live scrape or a recording rule."""
    used = {
        (source, str(selector.name))
        for source, query in queries(written)
        for selector in selectors(parse(query))
    }

    assert len(used) > 60
    assert {(source, name) for source, name in used if name not in known} == set()


def test_groupings_use_existing_labels(
    written: Path, known: dict[str, list[dict[str, str]]]
) -> None:
    """Grouping by an unknown label would give a single empty group."""
    for source, query in queries(written):
        for labels, metrics in groupings(parse(query)):
            existing = {
                label for name in metrics for label_set in known[name] for label in label_set
            }
            assert labels <= existing | TARGET_LABELS, source


def test_selectors_match_existing_values(
    written: Path, known: dict[str, list[dict[str, str]]]
) -> None:
    """An unknown status, outcome or bucket would match nothing."""
    for source, query in queries(written):
        for selector in selectors(parse(query)):
            labels = {matcher.name for matcher in selector.matchers.matchers} - TARGET_LABELS
            assert any(
                all(
                    label in label_set and matches(selector, label, label_set[label])
                    for label in labels
                )
                for label_set in known[str(selector.name)]
            ), (source, str(selector))


def test_every_family_is_used_by_a_query(written: Path) -> None:
    """The rules or the dashboard use each exported family."""
    used = {
        str(selector.name) for _, query in queries(written) for selector in selectors(parse(query))
    }
    exported = {name for name in live_samples() if name.startswith("tokenpulse_")}
    families = {name.removesuffix("_bucket") for name in exported if name.endswith("_bucket")}
    families |= {name for name in exported if not name.endswith(("_bucket", "_sum", "_count"))}

    assert {name for name in families if not {name, f"{name}_bucket"} & used} == set()
