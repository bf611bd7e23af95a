"""Lookup of a path among routes, in the order of a router.

The routes of one router are in a tree by the segments of their paths, so that a path is compared
only with routes whose literal segments it has, however many routes there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .route_tree import RouteNode


class RouteQuery(NamedTuple):
    """The parts of a request that select a route, except the path; `host` None matches any."""

    scope_type: str
    method: str
    host: str | None


class _Branch:
    """Positions of the routes whose paths begin with the same segments.

    Attributes:
        literals: Branches of longer paths by their next segment.
        parameter: Branch of the longer paths whose next segment has a parameter, if any.
        ends: Routes whose path has no further segment.
        below: Routes that match any further segments.
    """

    __slots__ = ("below", "ends", "literals", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Branch] = {}
        self.parameter: _Branch | None = None
        self.ends: list[int] = []
        self.below: list[int] = []


class RouteTable:
    """Routes of one router, and those of its mounts and hosts.

    Args:
        nodes: The routes, in the order of the router.
    """

    def __init__(self, nodes: Iterable[RouteNode]) -> None:
        self._nodes = tuple(nodes)
        self._inner = {
            position: RouteTable(node.children)
            for position, node in enumerate(self._nodes)
            if node.children is not None
        }
        self._root = _Branch()
        self._depth = 0  # segments of the longest path
        for position, node in enumerate(self._nodes):
            if node.is_host:
                self._root.below.append(position)
            elif node.is_readable:
                self._insert(position, node)

    def match(self, query: RouteQuery, path: str) -> str | None:
        """Return the template of the route that a router chooses for `path`, or None.

        Like a router, choose the first route that matches path and method, else the first that
        matches the path. Once a mount matches, only its routes are tried.
        """
        other_method: str | None = None
        for position in self._candidates(path):
            node = self._nodes[position]
            rest = _rest(node, query, path)
            if rest is None:
                continue
            if node.children is not None:
                return self._inner[position].match(query, rest) or node.template
            if not node.methods or query.method in node.methods:
                return node.template
            other_method = other_method or node.template
        return other_method

    def _insert(self, position: int, node: RouteNode) -> None:
        branch = self._root
        segments = node.path.split("/")
        for segment in segments:
            if "{" not in segment:
                longer = branch.literals.get(segment)
                if longer is None:
                    longer = branch.literals[segment] = _Branch()
            elif any(f"{{{name}}}" in segment for name in node.crossing):
                branch.below.append(position)
                break
            else:
                longer = branch.parameter
                if longer is None:
                    longer = branch.parameter = _Branch()
            branch = longer
        else:
            (branch.ends if node.children is None else branch.below).append(position)
        self._depth = max(self._depth, len(segments))

    def _candidates(self, path: str) -> list[int]:
        """Return the positions of all routes that may match `path`, in order."""
        segments = path.split("/", self._depth)
        # A pattern matches before a line feed at the end, too.
        last = segments[-1].removesuffix("\n")
        branches = [self._root]
        positions: list[int] = []
        for index, segment in enumerate(segments, 1):
            texts = {segment, last} if index == len(segments) else (segment,)
            longer: list[_Branch] = []
            for branch in branches:
                positions += branch.below
                longer += [branch.literals[text] for text in texts if text in branch.literals]
                if branch.parameter is not None:
                    longer.append(branch.parameter)
            branches = longer
        for branch in branches:
            positions += branch.below
            positions += branch.ends
        return sorted(positions)


def _rest(node: RouteNode, query: RouteQuery, path: str) -> str | None:
    """Return the part of `path` below `node`, or None if `node` does not match."""
    if query.scope_type not in node.scope_types or len(path) > node.max_chars:
        return None
    if node.is_host:
        return path if query.host is None or node.match(query.host) else None
    match = node.match(path)
    return path[match.end() :] if match else None
