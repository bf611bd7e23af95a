"""Evaluates the LogQL of the alerts from the log, without a Loki.

Of LogQL, this has what the rules use: sums of `count_over_time`, by labels or not, selectors,
`| json` with names, line filters (`|~`), filters of labels, one division, and a threshold.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

Labels = Mapping[str, str]

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`')
_MATCHER = re.compile(r"(\w+)(=~|!=|!~|=)<(\d+)>")
_FIELD = re.compile(r"(\w+)=<(\d+)>")
_SUM = re.compile(
    r"sum(?: by \((?P<by>[\w, ]+)\) )?\(count_over_time\("
    r"(?P<selector>\{[^}]*\})(?P<pipeline>[^\[]*)\[(?P<window>\d+[md])\]\)\)"
)
_COMPARISON = re.compile(rf"{_SUM.pattern}(?: / (?P<divisor>sum.*?))? > (?P<threshold>[\d.]+)")


def evaluate(expression: str, lines: Iterable[str]) -> list[dict[str, str]]:
    """Return the labels of each series above the threshold; all lines are in the window."""
    return _Query(expression).evaluate(list(lines))


class _Query:
    """An expression whose strings are replaced by numbers, since they may have any character."""

    def __init__(self, expression: str) -> None:
        self._strings: list[str] = []
        text = re.sub(r"\s+", " ", _STRING.sub(self._number, expression))
        text = text.replace("( ", "(").replace(" )", ")").strip()
        comparison = _COMPARISON.fullmatch(re.sub(r"} \|", "}|", text).replace(" [", "["))
        assert comparison is not None, f"not supported: {text}"
        self._comparison = comparison

    def evaluate(self, lines: list[str]) -> list[dict[str, str]]:
        """Return the labels of each series above the threshold."""
        counts = self._count(self._comparison, lines)
        divisor = 1.0
        if self._comparison["divisor"] is not None:
            second = _SUM.fullmatch(self._comparison["divisor"])
            assert second is not None
            divisor = sum(self._count(second, lines).values())
        limit = float(self._comparison["threshold"])
        return [dict(labels) for labels, count in counts.items() if count / divisor > limit]

    def _number(self, string: re.Match[str]) -> str:
        """Store a string, and return its number."""
        is_raw = string[0].startswith("`")
        self._strings.append(string[0][1:-1] if is_raw else json.loads(string[0]))
        return f"<{len(self._strings) - 1}>"

    def _count(self, part: re.Match[str], lines: list[str]) -> Counter[tuple[tuple[str, str], ...]]:
        by = [] if part["by"] is None else part["by"].split(", ")
        counts: Counter[tuple[tuple[str, str], ...]] = Counter()
        for line in lines:
            labels = self._labels(part["pipeline"], line)
            if labels is not None and self._match(part["selector"], stream_labels(line)):
                counts[tuple((name, labels.get(name, "")) for name in by)] += 1
        return counts

    def _labels(self, pipeline: str, line: str) -> dict[str, str] | None:
        """Return the labels after the stages of the pipeline; None if a filter drops the line."""
        labels = stream_labels(line)
        for stage in filter(None, (stage.strip() for stage in pipeline.split("|"))):
            if stage.startswith("json "):
                fields = _object(line)
                for name, number in _FIELD.findall(stage):
                    if self._strings[int(number)] in fields:
                        labels[name] = str(fields[self._strings[int(number)]])
            elif stage.startswith("~ "):
                if not re.search(self._strings[int(stage[3:-1])], line):
                    return None
            elif not self._match(stage, labels):
                return None
        return labels

    def _match(self, selector: str, labels: Labels) -> bool:
        """Return True if the labels match; a missing label is empty, and patterns are anchored."""
        matchers = _MATCHER.findall(selector)
        assert matchers, f"not supported: {selector}"
        for name, operator, number in matchers:
            expected, value = self._strings[int(number)], labels.get(name, "")
            is_equal = (
                re.fullmatch(expected, value) is not None if "~" in operator else value == expected
            )
            if is_equal == operator.startswith("!"):
                return False
        return True


def stream_labels(line: str) -> dict[str, str]:
    """Return the labels that Alloy gives to the line."""
    level = _object(line).get("level")
    return {"service_name": "tokenpulse"} | ({} if level is None else {"level": str(level)})


def _object(line: str) -> dict[str, object]:
    """Return the fields of a line; none if it is not a JSON object."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
