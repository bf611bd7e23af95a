"""Takes queries apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, Matcher, MatchOp, VectorSelector

_VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$provider": ".*"}


def parsed(query: str) -> Any:
    """The tree of a query, in which Grafana's variables may be."""
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    return promql_parser.parse(query)


def nodes(tree: Any) -> Iterator[Any]:
    """Every node of a tree, from the top."""
    yield tree
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(tree, name):
            yield from nodes(getattr(tree, name))
    for argument in getattr(tree, "args", ()):
        yield from nodes(argument)


def selectors(tree: Any) -> list[VectorSelector]:
    """What a query asks for."""
    return [node for node in nodes(tree) if isinstance(node, VectorSelector)]


def groupings(tree: Any) -> Iterator[tuple[set[str], set[str]]]:
    """The labels of each `by` and `on`, and the names of the metrics that they are for."""
    for node in nodes(tree):
        labels: set[str] = set()
        if isinstance(node, AggregateExpr) and node.modifier:
            labels = set(node.modifier.labels)
        elif isinstance(node, BinaryExpr) and node.modifier and node.modifier.matching:
            labels = set(node.modifier.matching.labels)
        if labels:
            yield labels, {str(each.name) for each in selectors(node)}


def matches(selector: VectorSelector, label: str, value: str) -> bool:
    """Whether a label's value is what `selector` asks for."""
    return all(_fits(each, value) for each in selector.matchers.matchers if each.name == label)


def _fits(matcher: Matcher, value: str) -> bool:
    exact = matcher.op in (MatchOp.Equal, MatchOp.NotEqual)
    wanted = re.escape(matcher.value) if exact else matcher.value
    found = re.fullmatch(wanted, value) is not None
    return found if matcher.op in (MatchOp.Equal, MatchOp.Re) else not found
