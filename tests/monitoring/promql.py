"""Parses PromQL queries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, Matcher, MatchOp, VectorSelector

_VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$provider": ".*"}


def parse(query: str) -> Any:
    """Parse a query that may contain variables of Grafana."""
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    return promql_parser.parse(query)


def nodes(tree: Any) -> Iterator[Any]:
    """Yield every node of a syntax tree, from the root."""
    yield tree
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(tree, name):
            yield from nodes(getattr(tree, name))
    for argument in getattr(tree, "args", ()):
        yield from nodes(argument)


def selectors(tree: Any) -> list[VectorSelector]:
    """Return the vector selectors of a query."""
    return [node for node in nodes(tree) if isinstance(node, VectorSelector)]


def groupings(tree: Any) -> Iterator[tuple[set[str], set[str]]]:
    """Yield the labels of each `by` and `on` with the names of their metrics."""
    for node in nodes(tree):
        labels: set[str] = set()
        if isinstance(node, AggregateExpr) and node.modifier:
            labels = set(node.modifier.labels)
        elif isinstance(node, BinaryExpr) and node.modifier and node.modifier.matching:
            labels = set(node.modifier.matching.labels)
        if labels:
            yield labels, {str(selector.name) for selector in selectors(node)}


def matches(selector: VectorSelector, label: str, value: str) -> bool:
    """Return True if `selector` matches the value of a label."""
    return all(
        _fits(matcher, value) for matcher in selector.matchers.matchers if matcher.name == label
    )


def _fits(matcher: Matcher, value: str) -> bool:
    exact = matcher.op in (MatchOp.Equal, MatchOp.NotEqual)
    pattern = re.escape(matcher.value) if exact else matcher.value
    is_match = re.fullmatch(pattern, value) is not None
    return is_match if matcher.op in (MatchOp.Equal, MatchOp.Re) else not is_match
