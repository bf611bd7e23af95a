"""Entity tags of conditional requests (RFC 9110, sections 8.8.3 and 13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

from .problems import ProblemError

# An entity tag, or an empty element, of a list (RFC 9110, sections 5.6.1.2 and 8.8.3).
_ELEMENT = re.compile(r'[ \t]*+(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)")?[ \t]*+(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Tags:
    """Entity tags of an `If-Match` or `If-None-Match` header.

    Attributes:
        any: True for `*`, which matches any version.
        strong: Opaque tags of the strong entity tags, in their order.
        weak: Opaque tags of the weak entity tags.
    """

    any: bool = False
    strong: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()

    def match(self, tag: str) -> bool:
        """Return True if `tag` matches by strong comparison, as in `If-Match`."""
        return self.any or tag in self.strong

    def match_weakly(self, tag: str) -> bool:
        """Return True if `tag` matches by weak comparison, as in `If-None-Match`."""
        return self.match(tag) or tag in self.weak


def quoted(tag: str | int) -> str:
    """Return a strong entity tag as in a header."""
    return f'"{tag}"'


def parse_tags(header: str) -> Tags:
    """Parse the entity tags of a header.

    Raises:
        ValueError: The header is not `*` or a list of at least one entity tag.
    """
    if header.strip(" \t") == "*":
        return Tags(any=True)
    strong: list[str] = []
    weak: list[str] = []
    position = 0
    while position < len(header):
        element = _ELEMENT.match(header, position)
        if element is None:
            raise _malformed()
        if element[2] is not None:
            (weak if element[1] else strong).append(element[2])
        position = element.end()
    if not strong and not weak:
        raise _malformed()
    return Tags(strong=tuple(strong), weak=tuple(weak))


def if_match(request: Request) -> Tags:
    """Return the entity tags of `If-Match`, which are the versions that a change may replace.

    Raises:
        ProblemError: The header is missing or malformed.
    """
    headers = request.headers.getlist("if-match")
    if not headers:
        raise ProblemError(
            428, "Precondition required: send If-Match with the ETag that you read, or * for any."
        )
    try:
        return parse_tags(",".join(headers))
    except ValueError as error:
        raise ProblemError(400, f"Invalid If-Match: {error}.") from None


def _malformed() -> ValueError:
    return ValueError('expected * or quoted entity tags, such as "3"')
