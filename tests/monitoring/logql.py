"""Evaluates the LogQL of the alerts from the log, without a Loki.

Of LogQL, this has what the rules use: sums of `count_over_time`, by labels or not, selectors,
`| json` with names, filters of labels, one division, and a threshold.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

Labels = Mapping[str, str]

_PAIR = re.compile(r'(\w+)="([^"]*)"')
_SUM = re.compile(
    r"sum(?: by \((?P<by>[\w, ]+)\) )?\(count_over_time\("
    r"(?P<selector>\{[^}]*\})(?P<pipeline>[^\[]*)\[(?P<window>\d+m)\]\)\)"
)
_COMPARISON = re.compile(rf"{_SUM.pattern}(?: / (?P<divisor>sum.*?))? > (?P<threshold>[\d.]+)")


def evaluate(expression: str, lines: Iterable[str]) -> list[dict[str, str]]:
    """Return the labels of each series above the threshold; all lines are in the window."""
    text = re.sub(r"\s+", " ", expression)
    text = text.replace("( ", "(").replace(" )", ")").strip()
    comparison = _COMPARISON.fullmatch(re.sub(r"} \|", "}|", text).replace(" [", "["))
    assert comparison is not None, f"not supported: {text}"
    lines = list(lines)
    counts = _count(comparison, lines)
    divisor = 1.0
    if comparison["divisor"] is not None:
        second = _SUM.fullmatch(comparison["divisor"])
        assert second is not None
        divisor = sum(_count(second, lines).values())
    limit = float(comparison["threshold"])
    return [dict(labels) for labels, count in counts.items() if count / divisor > limit]


def _count(part: re.Match[str], lines: Iterable[str]) -> Counter[tuple[tuple[str, str], ...]]:
    by = [] if part["by"] is None else part["by"].split(", ")
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for line in lines:
        labels = _labels(part["pipeline"], line)
        if labels is not None and _match(part["selector"], stream_labels(line)):
            counts[tuple((name, labels.get(name, "")) for name in by)] += 1
    return counts


def _labels(pipeline: str, line: str) -> dict[str, str] | None:
    """Return the labels after the stages of the pipeline; None if a filter drops the line."""
    labels = stream_labels(line)
    for stage in filter(None, (stage.strip() for stage in pipeline.split("|"))):
        if stage.startswith("json "):
            fields = _object(line)
            for name, field in _PAIR.findall(stage):
                if field in fields:
                    labels[name] = str(fields[field])
        elif not _match(stage, labels):
            return None
    return labels


def stream_labels(line: str) -> dict[str, str]:
    """Return the labels that Alloy gives to the line."""
    level = _object(line).get("level")
    return {"service_name": "tokenpulse"} | ({} if level is None else {"level": str(level)})


def _match(selector: str, labels: Labels) -> bool:
    """Return True if the labels match; a missing label is empty."""
    pairs = _PAIR.findall(selector)
    assert pairs, f"not supported: {selector}"
    return all(labels.get(name, "") == value for name, value in pairs)


def _object(line: str) -> dict[str, object]:
    """Return the fields of a line; none if it is not JSON."""
    try:
        fields: dict[str, object] = json.loads(line)
    except ValueError:
        return {}
    return fields
