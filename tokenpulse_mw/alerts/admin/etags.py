"""Entity tags, and the headers that make a request depend on them (RFC 9110, 8.8.3 and 13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Elements of a list may be empty.
_ELEMENT = re.compile(r'[ \t]*+(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)")?[ \t]*+(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Tags:
    """What `If-Match` or `If-None-Match` lists.

    Attributes:
        every: It is `*`, which is anything that there is.
        strong: The tags, without their quotes, in their order.
        weak: Those that are marked as weak.
    """

    every: bool = False
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()

    def match(self, tag: str) -> bool:
        """Strong comparison, as `If-Match` asks for: a weak tag is the same as none."""
        return self.every or tag in self.strong

    def match_weakly(self, tag: str) -> bool:
        """Weak comparison, as `If-None-Match` asks for."""
        return self.match(tag) or tag in self.weak


def quoted(tag: str | int) -> str:
    """A strong entity tag, as a header has it."""
    return f'"{tag}"'


def tags_of(header: str) -> Tags:
    """The tags that a header lists.

    Raises:
        ValueError: It lists none, or something else.
    """
    if header.strip(" \t") == "*":
        return Tags(every=True)
    strong: list[str] = []
    weak: list[str] = []
    at = 0
    while at < len(header):
        found = _ELEMENT.match(header, at)
        if found is None:
            raise _malformed()
        if found[2] is not None:
            (weak if found[1] else strong).append(found[2])
        at = found.end()
    if not strong and not weak:
        raise _malformed()
    return Tags(strong=tuple(strong), weak=tuple(weak))


def _malformed() -> ValueError:
    return ValueError('expected * or entity tags in their quotes, such as "3"')
